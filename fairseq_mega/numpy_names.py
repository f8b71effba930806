"""Names that fairseq uses and numpy 2 no longer has.

Importing the plugin supplies them, so that fairseq's own code runs with numpy 1 and 2. A name that
numpy still has is never changed.
"""

import types

import numpy


def supply_numpy_names() -> None:
    """Sets ``numpy.compat.long``, which numpy removed in 2.0, to ``int``.

    fairseq's ``TokenBlockDataset`` uses it with break mode ``eos``, ``LanguagePairDataset`` with
    ``--num-batch-buckets``. It can go when setup.py requires a fairseq that does without.
    """
    if not hasattr(numpy, "compat"):
        numpy.compat = types.SimpleNamespace(long=int)  # type: ignore[attr-defined]
