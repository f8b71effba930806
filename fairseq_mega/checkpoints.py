"""What checkpoints may hold beside tensors and plain containers.

torch loads checkpoints with ``weights_only=True``, which builds no object of a type that is not
listed. fairseq's checkpoints hold an ``argparse.Namespace``, those of the published Mega language
models numpy scalars too: exactly these are listed here, and any other type stays refused.
"""

import argparse
import codecs

import numpy as np
import torch
from numpy.core import multiarray


def allow_checkpoint_types() -> None:
    """Allows the types that fairseq's and the published checkpoints hold."""
    scalar = multiarray.scalar
    torch.serialization.add_safe_globals(
        [
            argparse.Namespace,
            # A numpy scalar pickles as scalar(dtype, bytes), by another name from numpy 2 on.
            (scalar, "numpy.core.multiarray.scalar"),
            (scalar, "numpy._core.multiarray.scalar"),
            np.dtype,
            *(type(np.dtype(t)) for t in (np.int64, np.float64, np.float32)),
            codecs.encode,
        ]
    )
