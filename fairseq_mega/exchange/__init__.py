"""Models in files that hold no code: weights as safetensors, all else as JSON.

``description`` says what the JSON may hold, ``build`` makes a task and a model of it, ``files``
reads and writes folders of both, to and from fairseq's checkpoints.
"""

from .files import export_checkpoint, import_folder, is_exported, load_exported

__all__ = ["export_checkpoint", "import_folder", "is_exported", "load_exported"]
