"""Reads, checks, writes and converts checkpoints.

``types`` lists the types that torch may load, ``reading`` reads, and ``trust`` checks what an
untrusted file chooses. ``exchange`` exports and imports models as safetensors and JSON, of which
``description`` says what it may hold; ``huggingface`` and ``imagenet`` convert the checkpoints of
other code; ``building`` makes a task and a model for both. ``recovery`` repairs folders of
checkpoints, and ``writing`` is the atomic writer.
"""
