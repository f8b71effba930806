"""Models of other code as checkpoints for fairseq's commands: exactly, or an error that says why
not.

``huggingface`` for the port of Mega that transformers had, with its options and names in
``huggingface_names``; ``imagenet`` for the published models of images; ``checkpoint`` writes.
"""

from .huggingface import convert_huggingface
from .imagenet import convert_imagenet

__all__ = ["convert_huggingface", "convert_imagenet"]
