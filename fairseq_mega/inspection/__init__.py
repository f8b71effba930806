"""Pictures of what a trained model remembers: ``python -m fairseq_mega inspect``, ``attend`` and
``curves``.

``weights`` reads checkpoints and ``memory`` computes what their EMAs remember, ``attention`` runs a
model on a text, ``logs`` reads the logs of trainings. ``*_pictures`` draw what these have found;
``page`` writes pictures, their numbers and a page that shows them. ``commands`` has the commands.
"""
