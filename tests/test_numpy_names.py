"""Names that fairseq uses and numpy 2 no longer has.

``tests/data/test_text.py`` uses fairseq's datasets with break mode ``eos``, which needs them.
"""

import numpy as np

from fairseq_mega.numpy_names import supply_numpy_names


def test_names_that_exist_stay():
    before = np.compat
    supply_numpy_names()
    assert np.compat is before and np.compat.long is int
