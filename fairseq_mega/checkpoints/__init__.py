"""What a checkpoint is: everything that reads, checks, writes or converts one.

``types`` says which types torch may load, ``trust`` what an untrusted file may choose. ``exchange``
exports and imports models as safetensors and JSON: ``description`` says what the JSON may hold, for
the tasks in ``task_forms``, and ``building`` makes a task and a model from it. ``huggingface`` and
``imagenet`` convert the checkpoints of other code with ``conversion``; ``recovery`` repairs folders
of checkpoints; ``writing`` is the atomic writer.
"""
