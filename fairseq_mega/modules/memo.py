"""Results that evaluation need not compute again."""

from typing import Callable, Hashable, Optional, Tuple

import torch
from torch import Tensor


class Memo:
    """Remembers one result for as long as the parameters that it was made of keep their values.

    They are compared by value, so that it does not matter what changes them: an optimizer, a
    checkpoint, a move to another type or device. For use without gradients.
    """

    def __init__(self):
        self._key: Optional[Hashable] = None
        self._parameters: Tuple[Tensor, ...] = ()
        self._result = None

    def __call__(self, make: Callable, key: Hashable, *parameters: Tensor):
        """``make()``, which depends on ``key`` and ``parameters``."""
        if key != self._key or not self._unchanged(parameters):
            self._result = make()
            self._key = key
            self._parameters = tuple(p.detach().clone() for p in parameters)
        return self._result

    def _unchanged(self, parameters: Tuple[Tensor, ...]) -> bool:
        return all(
            old.dtype == new.dtype and old.device == new.device and torch.equal(old, new)
            for old, new in zip(self._parameters, parameters)
        )
