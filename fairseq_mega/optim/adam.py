"""The optimizer ``mega_adam``: fairseq's ``adam``, which updates all tensors in one operation."""

from ast import literal_eval
from collections import defaultdict
from math import inf, sqrt

import torch
from fairseq.optim import FairseqOptimizer, adam, register_optimizer
from torch import Tensor

from ..ops import torch_internals

HALF = (torch.float16, torch.bfloat16)


@register_optimizer("mega_adam", dataclass=adam.FairseqAdamConfig)
class FairseqAdam(adam.FairseqAdam):
    """Makes the updates of fairseq's ``adam``; either optimizer continues the other's checkpoints,
    because fairseq compares the class's name with the checkpoint's.
    """

    def __init__(self, cfg: adam.FairseqAdamConfig, params):
        FairseqOptimizer.__init__(self, cfg)
        if not 0 < cfg.adam_eps < inf:
            raise ValueError(f"--adam-eps is {cfg.adam_eps:g}, but must be above 0: give 1e-8")
        if not 0 <= cfg.weight_decay < inf:
            raise ValueError(f"--weight-decay is {cfg.weight_decay:g}, but must be at least 0")
        if cfg.fp16_adam_stats:
            raise ValueError("--fp16-adam-stats is not for mega_adam: leave it out, or use adam")
        self._optimizer = FusedAdam(params, **self.optimizer_config)

    @property
    def optimizer_config(self):
        cfg = self.cfg
        return {
            "lr": cfg.lr[0],
            "betas": parse_betas(cfg.adam_betas),
            "eps": cfg.adam_eps,
            "weight_decay": cfg.weight_decay,
        }

    def clip_grad_norm(self, max_norm, aggregate_norm_fn=None):
        """Returns the norm of all gradients, and clips it to ``max_norm`` if that is above 0."""
        params = [p for p in self.params if p.grad is not None]
        if not params or any(hasattr(p, "expert") for p in params):
            # fairseq excludes the experts of a mixture from the norm.
            return super().clip_grad_norm(max_norm, aggregate_norm_fn)
        grads = [p.grad for p in params]
        norms = torch_internals.foreach_norm(grads, dtype=torch.float32)
        norm = torch.linalg.vector_norm(torch.stack(norms))
        if aggregate_norm_fn is not None:
            norm = aggregate_norm_fn(norm)
        if max_norm > 0:
            torch_internals.foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp_(max=1))
        return norm


def parse_betas(option) -> tuple[float, ...]:
    """Reads the two values of ``--adam-betas``: text on the command line, a list in YAML."""
    try:
        betas = tuple(map(float, literal_eval(str(option))))
    except (SyntaxError, TypeError, ValueError):
        betas = ()
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(
            f"--adam-betas is {option}, but must be two numbers, at least 0 and below 1, such as "
            "'(0.9, 0.98)'"
        )
    return betas


class FusedAdam(adam.Adam):
    """Keeps the state of fairseq's Adam, and computes its updates with torch's fused AdamW.

    ``v`` being the average of squares, fairseq adds ``eps`` to ``sqrt(v)``, and torch adds it to
    ``sqrt(v / (1 - beta2^t))``. Torch therefore gets fairseq's ``eps / sqrt(1 - beta2^t)``.
    """

    def step(self, closure=None):
        """Updates the parameters that have gradients."""
        loss = None if closure is None else closure()
        with torch.no_grad():
            for group in self.param_groups:
                alike = defaultdict(list)
                for p in group["params"]:
                    if p.grad is not None:
                        alike[p.device, p.dtype, self._next_step(p)].append(p)
                for (device, dtype, step), params in alike.items():
                    self._update(group, params, device, dtype, step)
        return loss

    def _next_step(self, p: Tensor) -> int:
        state = self.state[p]
        if not state:
            dtype = torch.float32 if p.dtype in HALF else p.dtype
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(p, dtype=dtype)
            state["exp_avg_sq"] = torch.zeros_like(p, dtype=dtype)
        state["step"] += 1
        return state["step"]

    def _update(self, group, params, device, dtype, step):
        states = [self.state[p] for p in params]
        values, grads = params, [p.grad for p in params]
        if dtype in HALF:
            values, grads = [p.float() for p in params], [grad.float() for grad in grads]
            for state in states:  # fairseq leaves a loaded state on the CPU
                for name in ("exp_avg", "exp_avg_sq"):
                    state[name] = state[name].to(device, torch.float32)
        if group["weight_decay"] != 0:
            # On a CPU, torch's factor 1 - lr * weight_decay would be rounded to float32 first.
            torch_internals.foreach_add_(values, values, alpha=-group["lr"] * group["weight_decay"])
        beta1, beta2 = group["betas"]
        torch_internals.fused_adamw_(
            values,
            grads,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],  # for AMSGrad
            # One tensor serves all, and is filled on the device without a synchronisation.
            [torch.full((), step, dtype=torch.float32, device=device)] * len(params),
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=group["eps"] / sqrt(1 - beta2**step),
            amsgrad=False,
            maximize=False,
        )
        if dtype in HALF:
            torch_internals.foreach_copy_(params, values)
