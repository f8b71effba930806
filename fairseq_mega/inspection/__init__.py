"""Figures of trained models: ``python -m fairseq_mega inspect``, ``attend`` and ``curves``.

``weights``, ``attention`` and ``logs`` read the data, ``*_figures`` plot them, and ``page`` writes
one page. Only ``__main__`` imports this package, which needs matplotlib.
"""
