"""The criterion ``lra_cross_entropy``: cross entropy of classes, and accuracy."""

import math
from typing import Dict, List

import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion, CrossEntropyCriterionConfig
from fairseq.logging import metrics


@register_criterion("lra_cross_entropy", dataclass=CrossEntropyCriterionConfig)
class LRACrossEntropyCriterion(CrossEntropyCriterion):
    """Sums ``-log p(target)`` over a batch, for ``model(sample)``. The gradients are divided by the
    number of samples with ``--sentence-avg``, otherwise by the number of symbols.

    Published checkpoints name the optimizer's state after this class.
    """

    def forward(self, model, sample: Dict, reduce: bool = True):
        """Returns the loss (``(B,)`` if not ``reduce``), its divisor, and the logging output."""
        lprobs = model.get_normalized_probs(model(sample), log_probs=True)  # (B, classes)
        target = sample["target"]
        loss = F.nll_loss(lprobs, target, reduction="sum" if reduce else "none")
        sample_size = sample["nsentences"] if self.sentence_avg else sample["ntokens"]
        logging_output = {
            "loss": loss.detach(),
            "ncorrect": (lprobs.argmax(dim=1) == target).sum().detach(),
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": sample_size,
        }
        return loss, sample_size, logging_output

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict]) -> None:
        """Logs the loss in base 2 and the accuracy in percent, over all workers."""

        def total(name: str):
            return sum(output.get(name, 0) for output in logging_outputs)

        sample_size, sentences = total("sample_size"), total("nsentences")
        metrics.log_scalar("loss", total("loss") / sample_size / math.log(2), sample_size, round=3)
        metrics.log_scalar("accuracy", 100.0 * total("ncorrect") / sentences, sentences, round=3)
