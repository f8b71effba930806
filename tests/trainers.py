"""Builds fairseq's trainer in this process, as fairseq-train does."""

import fairseq.tasks
import numpy as np
import torch
from fairseq.logging import metrics
from fairseq.trainer import Trainer


def make_trainer(cfg):
    """The trainer of the task, model and criterion that ``cfg`` describes, without its data."""
    np.random.seed(cfg.common.seed)
    torch.manual_seed(cfg.common.seed)
    metrics.reset()
    task = fairseq.tasks.setup_task(cfg.task)
    model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    return Trainer(cfg, task, model, criterion)
