"""The interface from Python to classifiers of texts, images and clips."""

import sys
from typing import Any, Dict, List, NamedTuple, Sequence

import torch
from fairseq.utils import apply_to_sample
from torch import Tensor, nn

from ..data.classification import collate


class Prediction(NamedTuple):
    """A sample's most probable class, and the probability of each."""

    name: str
    probabilities: Dict[str, float]


class ClassifierHub(nn.Module):
    """The interface that ``MegaClassifier.from_pretrained`` returns; the probabilities of several
    models are averaged."""

    def __init__(self, cfg: Any, task: Any, models: Sequence[nn.Module]):
        super().__init__()
        self.cfg, self.task = cfg, task
        self.models = nn.ModuleList(models).eval()

    @property
    def class_names(self) -> List[str]:
        return self.task.class_names()

    @torch.no_grad()
    def predict(self, samples: Sequence, batch_size: int = 16) -> List[Prediction]:
        """Classifies samples; a result does not depend on the other samples.

        Args:
            samples: texts (symbols with blanks between them), images (arrays of numbers from 0 to
                255) or clips (arrays of amplitudes); pairs, if the model compares two texts.
            batch_size: the number of samples that are computed at a time.

        Raises:
            ValueError: at a sample that the model does not read; says which.
        """
        if isinstance(samples, str):
            raise ValueError("samples must be a list of texts, but are one text: put it in a list")
        encoded = [self._encode(sample, number) for number, sample in enumerate(samples)]
        order = sorted(range(len(encoded)), key=lambda i: max(map(len, encoded[i])))
        predictions: Dict[int, Prediction] = {}
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            probabilities = self._probabilities([encoded[row] for row in rows])
            for row, each in zip(rows, probabilities.tolist()):
                named = dict(zip(self.class_names, each))
                predictions[row] = Prediction(max(named, key=named.__getitem__), named)
        return [predictions[row] for row in range(len(order))]

    def _encode(self, sample: Any, number: int) -> List[Tensor]:
        """The sequences of a sample, each ``(L,)``."""
        documents = [sample] if self.task.documents == 1 else sample
        if not isinstance(documents, (tuple, list)) or len(documents) != self.task.documents:
            raise ValueError(f"sample {number} must be a pair of texts, but is {sample!r:.80}")
        try:
            encoded = [self.task.encode(each) for each in documents]
        except ValueError as error:
            raise ValueError(f"sample {number}: {error}") from error
        longest = self.task.max_input
        for each in encoded:
            if not 0 < len(each) <= longest:
                most = f" and at most {longest}" if longest < sys.maxsize else ""
                raise ValueError(
                    f"sample {number} has {len(each)} positions, but must have at least 1{most}"
                )
        return encoded

    def _probabilities(self, encoded: List[List[Tensor]]) -> Tensor:
        """``(B, classes)``, in float32."""
        device = next(self.models.parameters()).device
        batch = apply_to_sample(lambda t: t.to(device), collate(encoded, self.task.pad))
        probabilities = [
            model.get_normalized_probs(model(batch), log_probs=False)  # type: ignore[operator]
            for model in self.models
        ]
        return torch.stack(probabilities).mean(dim=0)
