"""The learning-rate schedule ``linear_decay`` of the published recipes."""

from dataclasses import dataclass, field
from typing import List, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II

PUBLISHED_TOTAL = 1_000_000  # updates


@dataclass
class LinearDecayConfig(FairseqDataclass):
    warmup_updates: int = field(default=0, metadata={"help": "number of updates of the warm-up"})
    warmup_power: float = field(
        default=1.0, metadata={"help": "exponent of the warm-up; 1 for a straight line"}
    )
    warmup_init_lr: float = field(
        default=1e-7,
        metadata={"help": "learning rate at the start of the warm-up; -1 means 0"},
    )
    end_learning_rate: float = field(
        default=0.0, metadata={"help": "learning rate after --total-num-update"}
    )
    total_num_update: Optional[float] = field(
        default=None,
        metadata={
            "help": "number of updates until --end-learning-rate (default: --max-update, or "
            f"{PUBLISHED_TOTAL} without it)"
        },
    )
    stop_min_lr: float = II("optimization.stop_min_lr")
    max_update: int = II("optimization.max_update")
    lr: List[float] = II("optimization.lr")


@register_lr_scheduler("linear_decay", dataclass=LinearDecayConfig)
class LinearDecaySchedule(FairseqLRScheduler):
    """Rises from ``--warmup-init-lr`` to ``--lr``, then falls linearly to ``--end-learning-rate``
    at ``--total-num-update``."""

    def __init__(self, cfg: LinearDecayConfig, optimizer):
        super().__init__(cfg, optimizer)
        if len(cfg.lr) > 1:
            raise ValueError(
                f"--lr is {list(cfg.lr)}, but linear_decay takes one learning rate: give one"
            )
        if cfg.total_num_update is None:
            cfg.total_num_update = cfg.max_update or PUBLISHED_TOTAL
        if not 0 <= cfg.warmup_updates < cfg.total_num_update:
            raise ValueError(
                f"--warmup-updates is {cfg.warmup_updates}, but must be at least 0 and below "
                f"--total-num-update ({cfg.total_num_update:g})"
            )
        if cfg.warmup_power < 0:
            raise ValueError(f"--warmup-power is {cfg.warmup_power:g}, but must be at least 0")
        if cfg.warmup_init_lr < 0 and cfg.warmup_init_lr != -1:
            raise ValueError(
                f"--warmup-init-lr is {cfg.warmup_init_lr:g}, but must be at least 0, or -1 for 0"
            )
        self.start = max(0.0, cfg.warmup_init_lr)
        if self.learning_rate(0) <= cfg.stop_min_lr:
            raise ValueError(
                f"the first learning rate is {self.learning_rate(0):g} (--lr, --warmup-init-lr), "
                f"but fairseq trains only above --stop-min-lr ({cfg.stop_min_lr:g}): raise the "
                "former, or leave --stop-min-lr out"
            )
        self.step_update(0)

    def learning_rate(self, num_updates: int) -> float:
        """Returns the learning rate after ``num_updates`` updates."""
        cfg, peak = self.cfg, self.cfg.lr[0]
        if num_updates < cfg.warmup_updates:
            risen = (num_updates / cfg.warmup_updates) ** cfg.warmup_power
            return self.start + (peak - self.start) * risen
        decay_updates = cfg.total_num_update - cfg.warmup_updates
        left = max(0.0, 1 - (num_updates - cfg.warmup_updates) / decay_updates)
        return cfg.end_learning_rate + (peak - cfg.end_learning_rate) * left

    def step_update(self, num_updates: int) -> float:
        """Sets and returns the learning rate of the next update."""
        self.optimizer.set_lr(self.learning_rate(num_updates))
        return self.optimizer.get_lr()
