"""What checkpoints may hold beside tensors and plain containers.

torch loads checkpoints with ``weights_only=True``, which builds no object of a type that is not
listed. fairseq's checkpoints hold an ``argparse.Namespace``, those of trainings with --eval-bleu
numpy arrays of counts, those of the published Mega language models numpy scalars: exactly these
are listed here, and any other type stays refused.
"""

import argparse
import codecs

import numpy as np
import torch
from numpy.core import multiarray


def allow_checkpoint_types() -> None:
    """Allows the types that fairseq's and the published checkpoints hold."""
    scalar, array = multiarray.scalar, multiarray._reconstruct
    torch.serialization.add_safe_globals(
        [
            argparse.Namespace,
            # What builds a numpy scalar or array has another name from numpy 2 on.
            (scalar, "numpy.core.multiarray.scalar"),
            (scalar, "numpy._core.multiarray.scalar"),
            (array, "numpy.core.multiarray._reconstruct"),
            (array, "numpy._core.multiarray._reconstruct"),
            np.ndarray,
            np.dtype,
            *(type(np.dtype(t)) for t in (np.int64, np.float64, np.float32)),
            codecs.encode,
        ]
    )
