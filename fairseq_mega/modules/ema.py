"""The EMA sublayer (Mega, section "Multi-dimensional Damped EMA")."""

from typing import Callable, Dict, Hashable, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.incremental_decoding_utils import with_incremental_state
from torch import Tensor, nn

from ..ops.ema import (
    EMABlock,
    EMACoefficients,
    block_size,
    ema_block,
    ema_by_blocks,
    ema_coefficients,
    ema_convolution,
    ema_kernel,
    ema_recurrence,
    ema_step_,
    runs_by_blocks,
)
from .checks import check_positive
from .memo import Memo


@with_incremental_state
class MultiHeadEMA(nn.Module):
    """``silu(EMA(x) + omega x)``: a damped EMA of ``ndim`` dimensions in each channel.

    Args:
        embed_dim: channels ``D``.
        ndim: EMA dimensions ``N`` of a channel.
        bidirectional: adds a second EMA that runs from the end to the start.
        truncation: kernel taps that are kept; None, 0 or less for all of them. The incremental
            form has no truncation.
    """

    def __init__(
        self,
        embed_dim: int,
        ndim: int = 2,
        bidirectional: bool = False,
        truncation: Optional[int] = None,
    ):
        super().__init__()
        check_positive(embed_dim=embed_dim, ndim=ndim)
        self.embed_dim = embed_dim
        self.ndim = ndim
        self.bidirectional = bidirectional
        self.truncation = truncation if truncation and truncation > 0 else None
        kernel_dim = 2 * embed_dim if bidirectional else embed_dim
        self.delta = nn.Parameter(torch.empty(kernel_dim, ndim, 1))
        self.alpha = nn.Parameter(torch.empty(kernel_dim, ndim, 1))
        self.beta = nn.Parameter(torch.empty(kernel_dim, ndim, 1))
        self.gamma = nn.Parameter(torch.empty(kernel_dim, ndim))
        self.omega = nn.Parameter(torch.empty(embed_dim))
        self._memo = Memo()
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.normal_(self.delta, std=0.2)
        nn.init.normal_(self.alpha, std=0.2)
        nn.init.normal_(self.beta, std=0.02)
        self.beta[:, 0::2] += 1.0
        self.beta[:, 1::2] -= 1.0
        nn.init.normal_(self.gamma)
        nn.init.normal_(self.omega)

    def forward(
        self,
        x: Tensor,
        padding_mask: Optional[Tensor] = None,
        incremental_state: Optional[Dict] = None,
    ) -> Tensor:
        """
        Args:
            x: ``(L, B, D)``.
            padding_mask: ``(B, L)``, true at padding, which contributes nothing.
            incremental_state: continues from the state in it, and leaves the new one there. For
                inference: it holds no gradients.

        Returns:
            ``(L, B, D)``, laid out in memory as ``x`` is.
        """
        return F.silu(self.average(x, padding_mask, incremental_state)).to(x.dtype)

    def average(
        self,
        x: Tensor,
        padding_mask: Optional[Tensor] = None,
        incremental_state: Optional[Dict] = None,
    ) -> Tensor:
        """``EMA(x) + omega x``, ``(L, B, D)`` in at least float32; arguments as of ``forward``.

        For a layer that applies ``silu`` together with what follows.
        """
        # The whole sublayer computes in at least float32, whatever the model's precision.
        with torch.autocast(x.device.type, enabled=False):
            batch_first = x.transpose(0, 1)  # (B, L, D)
            dtype = torch.promote_types(x.dtype, torch.float32)
            inputs = batch_first.to(dtype)
            if padding_mask is not None:
                inputs = inputs.masked_fill(padding_mask.unsqueeze(-1), 0.0)
            omega = self.omega.to(dtype)
            if incremental_state is not None:
                y = self._continue(inputs, incremental_state) + batch_first * omega
            elif padding_mask is not None:
                y = self._convolve(inputs) + batch_first * omega
            else:
                y = self._convolve(inputs, omega)
            return y.transpose(0, 1)

    def coefficients(self) -> EMACoefficients:
        """``(K, N)`` each, with ``K = 2 D`` (forward rows, then backward) if bidirectional."""
        return ema_coefficients(self.delta, self.alpha, self.beta, self.gamma)

    def _convolve(self, x: Tensor, omega: Optional[Tensor] = None) -> Tensor:
        """The EMA of ``x (B, L, D)`` in parallel, plus ``omega x``: one more of tap 0."""
        length = x.size(1)
        taps = min(length, self.truncation or length)
        if runs_by_blocks(x, taps, self.bidirectional):
            block = self._block(block_size(x), taps if taps < length else None, omega)
            return ema_by_blocks(x, block, self.bidirectional)
        kernels = self._kernels(taps)
        if omega is not None:
            first = F.pad(omega.unsqueeze(1), (0, taps - 1))
            kernels = (kernels[0] + first, *kernels[1:])
        return ema_convolution(x, *kernels)

    def _kernels(self, taps: int) -> Tuple[Tensor, ...]:
        """The kernel, or both, ``(D, taps)`` each."""

        def make():
            return ema_kernel(self.coefficients(), taps).split(self.embed_dim)

        return self._once(make, taps)

    def _block(self, size: int, taps: Optional[int], omega: Optional[Tensor]) -> EMABlock:
        def make():
            directions = zip(*(t.split(self.embed_dim) for t in self.coefficients()))
            return ema_block([EMACoefficients(*c) for c in directions], size, omega, taps)

        return self._once(make, (size, taps, omega is None))

    def _once(self, make: Callable, key: Hashable):
        """``make()``; in evaluation once, as long as parameters and ``key`` are the same."""
        if self.training or torch.is_grad_enabled():
            return make()
        return self._memo(make, key, self.delta, self.alpha, self.beta, self.gamma, self.omega)

    def train(self, mode: bool = True) -> "MultiHeadEMA":
        self._memo = Memo()  # kernels of long sequences are large
        return super().train(mode)

    def _continue(self, x: Tensor, incremental_state: Dict) -> Tensor:
        """The EMA of ``x (B, L, D)`` after what the state has seen. States hold no gradients."""
        if self.bidirectional:
            raise ValueError("a bidirectional EMA cannot run incrementally: it needs the future")
        saved = self.get_incremental_state(incremental_state, "ema")
        if saved is None:
            with torch.no_grad():
                coefficients = EMACoefficients(*(t.t().contiguous() for t in self.coefficients()))
                decay = torch.exp(coefficients.log_decay)
            h = x.new_zeros(x.size(0), self.ndim, self.embed_dim)
            saved = {"coefficients": coefficients, "decay": decay, "h": h, "spare": h.clone()}
        coefficients, decay, h, spare = saved.values()  # (N, D), (N, D), (B, N, D) twice
        if x.size(1) == 1 and not torch.is_grad_enabled():
            y = ema_step_(x.squeeze(1), coefficients, decay, h, spare).unsqueeze(1)
        else:
            y, h = ema_recurrence(x, coefficients.t(), h.transpose(1, 2))
            h = h.detach().transpose(1, 2).contiguous()
        self.set_incremental_state(incremental_state, "ema", {**saved, "h": h})
        return y

    def reorder_incremental_state(self, incremental_state: Dict, new_order: Tensor) -> None:
        saved = self.get_incremental_state(incremental_state, "ema")
        if saved:
            h, spare = saved["h"], saved["spare"]
            if new_order.numel() == h.size(0):
                torch.index_select(h, 0, new_order, out=spare)
                saved = {**saved, "h": spare, "spare": h}
            else:
                h = h.index_select(0, new_order)
                saved = {**saved, "h": h, "spare": torch.empty_like(h)}
            self.set_incremental_state(incremental_state, "ema", saved)

    def carried(self, incremental_state: Dict) -> Tensor:
        """``h (B, D, N)`` after what the state has seen: a view, which the next step changes."""
        return self.get_incremental_state(incremental_state, "ema")["h"].transpose(1, 2)

    def carry(self, incremental_state: Dict, h: Tensor) -> None:
        """Lets a state, in which something was read, go on from ``h (B, D, N)``."""
        saved = self.get_incremental_state(incremental_state, "ema")
        h = h.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        self.set_incremental_state(incremental_state, "ema", {**saved, "h": h})

    def extra_repr(self) -> str:
        return (
            f"embed_dim={self.embed_dim}, ndim={self.ndim}, bidirectional={self.bidirectional}, "
            f"truncation={self.truncation}"
        )
