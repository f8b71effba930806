"""The EMA sublayer (Mega, section "Multi-dimensional Damped EMA")."""

from typing import List, Optional

import torch
from torch import Tensor, nn

from ..ops.autocast import without_autocast
from ..ops.ema import EMACoefficients, EMAParameters, StepCoefficients, ema, ema_segment, ema_step_
from .checks import check_longest_memory, check_positive
from .state import HiddenState, LayerState

INIT_STD = 0.2  # of delta and alpha
LARGEST_SPREAD = 0.9  # of p: beyond it, sigma(delta) hardly moves with delta


class MultiHeadEMA(nn.Module):
    """``EMA(x) + omega x``: a damped EMA of ``ndim`` dimensions in each channel.

    The paper's alpha is ``sigmoid(delta)`` here, its delta ``sigmoid(alpha)``, and its eta
    ``gamma / sqrt(ndim)``.

    Args:
        embed_dim: channels ``D``.
        ndim: EMA dimensions ``N`` of a channel.
        bidirectional: adds a second EMA that runs from the end to the start.
        truncation: kernel taps, None, 0 or less for all of them. Decoding is never truncated.
        longest_memory: spreads the initial memories of a channel's dimensions from 2 to so many
            tokens; None for the published initial values, with memories of 4 or 5 tokens.
    """

    def __init__(
        self,
        embed_dim: int,
        ndim: int = 2,
        bidirectional: bool = False,
        truncation: Optional[int] = None,
        longest_memory: Optional[int] = None,
    ):
        super().__init__()
        check_positive(embed_dim=embed_dim, ndim=ndim)
        if longest_memory is not None:
            check_longest_memory("longest_memory", longest_memory)
        self.embed_dim = embed_dim
        self.ndim = ndim
        self.bidirectional = bidirectional
        self.truncation = truncation if truncation and truncation > 0 else None
        self.longest_memory = longest_memory
        kernel_dim = 2 * embed_dim if bidirectional else embed_dim
        # names fixed by published checkpoints
        self.delta = nn.Parameter(torch.empty(kernel_dim, ndim, 1))
        self.alpha = nn.Parameter(torch.empty(kernel_dim, ndim, 1))
        self.beta = nn.Parameter(torch.empty(kernel_dim, ndim, 1))
        self.gamma = nn.Parameter(torch.empty(kernel_dim, ndim))
        self.omega = nn.Parameter(torch.empty(embed_dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.normal_(self.delta, std=INIT_STD)
        nn.init.normal_(self.alpha, std=INIT_STD)
        nn.init.normal_(self.beta, std=0.02)
        self.beta[:, 0::2] += 1.0
        self.beta[:, 1::2] -= 1.0
        nn.init.normal_(self.gamma)
        nn.init.normal_(self.omega)
        if self.longest_memory is not None:
            self.delta.copy_(spread_delta(self.delta, self.alpha, self.longest_memory))

    def forward(
        self, x: Tensor, padding_mask: Optional[Tensor] = None, state: Optional[LayerState] = None
    ) -> Tensor:
        """``x (B, L, D)`` to ``(B, L, D)``, in the type that ``ema`` returns.

        Args:
            padding_mask: ``(B, L)``, true at padding, which contributes nothing to the EMA.
            state: continues from the positions that it has read, and reads these.
        """
        with without_autocast(x):
            if state is None:
                return ema(x, self.ema_parameters(), self.omega, self.truncation, padding_mask)
            x = unpadded = x.to(torch.promote_types(self.gamma.dtype, torch.float32))
            if padding_mask is not None:
                unpadded = x.masked_fill(padding_mask.unsqueeze(-1), 0.0)
            return torch.addcmul(self._continue(unpadded, state), x, self.omega.to(x.dtype))

    def ema_parameters(self) -> EMAParameters:
        return EMAParameters(self.delta, self.alpha, self.beta, self.gamma)

    def directions(self) -> List[EMACoefficients]:
        """Coefficients ``(D, N)`` of the forward EMA, and of the backward EMA if bidirectional."""
        return self.ema_parameters().directions(self.embed_dim)

    def _continue(self, x: Tensor, state: LayerState) -> Tensor:
        """The EMA of ``x (B, L, D)`` after what the state has read."""
        if self.bidirectional:
            raise ValueError("a bidirectional EMA cannot take a state: it needs the future")
        if state.ema is None:
            state.ema = HiddenState(x.new_zeros(x.size(0), self.embed_dim, self.ndim))
        if x.size(1) == 1 and not torch.is_grad_enabled():
            if state.ema.step_coefficients is None:
                state.ema.step_coefficients = StepCoefficients.of(*self.directions())
            h, scratch = state.ema.memory()
            return ema_step_(x.squeeze(1), state.ema.step_coefficients, h, scratch).unsqueeze(1)
        (coefficients,) = self.directions()
        y, state.ema.h = ema_segment(x, coefficients, state.ema.h)
        return y

    def extra_repr(self) -> str:
        return (
            f"embed_dim={self.embed_dim}, ndim={self.ndim}, bidirectional={self.bidirectional}, "
            f"truncation={self.truncation}"
        )


def spread_delta(delta: Tensor, alpha: Tensor, longest: int) -> Tensor:
    """``delta (K, N, 1)`` that spreads a channel's memories ``1 / (1 - q)`` from 2 to ``longest``
    tokens, evenly by their logarithms: each dimension has a random place in an interval of its own.

    Only ``p = 1 / (memory a)`` changes, not the response to a constant input, ``beta gamma / a``.
    The published initial values ``delta ~ N(0, 0.2^2)`` decide the places, so that the model's
    other weights keep their random numbers. ``alpha`` is ``(K, N, 1)``.
    """
    intervals = torch.arange(delta.size(1), dtype=delta.dtype, device=delta.device).unsqueeze(1)
    place = torch.special.ndtr(delta / INIT_STD)  # uniform in (0, 1)
    share = (intervals + place) / delta.size(1)
    memory = 2 * (longest / 2) ** share
    return torch.logit((1 / (memory * torch.sigmoid(alpha))).clamp(max=LARGEST_SPREAD))
