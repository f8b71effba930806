"""What a language model keeps of a text, to read on later, elsewhere, or in several ways."""

import copy
import hashlib
from typing import Dict, List, Tuple

import torch
from torch import Tensor

from ..modules.state import EMAState, LayerState
from .streaming import read_segments, target_scores

# Options that change what a model computes with the same weights.
OPTIONS = (
    "activation_fn",
    "attention_activation_fn",
    "decoder_chunk_size",
    "no_scale_embedding",
    "normalization_type",
    "normalize_before",
)


class TextState:
    """All that a chunked language model keeps of the text it has read.

    ``MegaLanguageModel.start`` makes it, ``MegaLanguageModel.restore`` makes it of a saved one. Of
    however long a text, it has the same size: in each layer the EMA's ``D N`` numbers (float32 at
    least) and a chunk's ``C (Z + H)``, and the last token's ``D`` features, for each row. The model
    must not change as long as it is read on.
    """

    @torch.no_grad()
    def __init__(self, model, batch: int):
        if batch < 1:
            raise ValueError(f"batch is {batch}, but a state has at least one row")
        self._model = model
        self._state = model.decoder.new_state()
        self._read = 0
        eos = model.decoder.dictionary.eos()
        device = next(model.parameters()).device
        start = torch.full((batch, 1), eos, device=device)  # as fairseq's texts have it
        self._advance(model.decoder.prefill(start, self._state))

    @torch.no_grad()
    def read(self, tokens: Tensor) -> Tensor:
        """Reads on, at most a segment at a time.

        Args:
            tokens: ``(B, T)``, any number of them, without padding.

        Returns:
            the log-probability of each token after all the text before it, ``(B, T)``.

        Raises:
            ValueError: at tokens of another shape or type, or outside the dictionary; in training
                mode. The state is as before.
            InterruptedReadError: where an earlier read was interrupted.
        """
        self._model.check_state()
        self._check(tokens)
        decoder, segment = self._model.decoder, self._model.segment_length
        scores = [torch.empty(tokens.size(0), 0, device=tokens.device)]
        with self._state.reading():
            parts = read_segments(decoder, tokens, segment, self._state)
            for features, words in zip(parts, tokens.split(segment, dim=1)):
                before = torch.cat([self._features.unsqueeze(1), features[:, :-1]], dim=1)
                scores.append(target_scores(decoder, before, words))
                self._advance(features)
        return torch.cat(scores, dim=1)

    @torch.no_grad()
    def predict(self) -> Tensor:
        """The log-probabilities of the next token, ``(B, V)``."""
        self._state.check()
        decoder = self._model.decoder
        scores = decoder.output_layer(self._features.unsqueeze(1))
        return decoder.get_normalized_probs((scores,), log_probs=True).squeeze(1)

    def fork(self, count: int) -> List["TextState"]:
        """``count`` copies that read on independently of each other and of this one."""
        self._state.check()
        forks = [copy.copy(self) for _ in range(count)]
        for fork in forks:
            with torch.inference_mode(False):  # or the copies could be read nowhere else
                fork._state = copy.deepcopy(self._state)
        return forks

    @property
    def nbytes(self) -> int:
        """The size in bytes of what is saved, but for the few of a length and a fingerprint."""
        return sum(t.numel() * t.element_size() for t in self._tensors().values())

    def save(self) -> Dict[str, Tensor]:
        """Everything as tensors, for ``torch.save`` or ``safetensors.torch.save_file``;
        ``MegaLanguageModel.restore`` takes it.

        Reads all weights once, to name the model that the state belongs to.
        """
        self._state.check()
        return {
            **self._tensors(),
            "read": torch.tensor(self._read),
            "fingerprint": _fingerprint(self._model),
        }

    @classmethod
    def restored(cls, model, saved: Dict[str, Tensor]) -> "TextState":
        """What ``MegaLanguageModel.restore`` returns."""
        if not {"features", "read", "fingerprint"} <= saved.keys():
            raise ValueError(f"not a saved TextState: it holds {sorted(saved)}")
        if not torch.equal(saved["fingerprint"].cpu(), _fingerprint(model)):
            raise ValueError(
                "the state is of another model: its weights, or the options that they are used "
                f"with ({', '.join(OPTIONS)}), differ from this model's"
            )
        state = cls(model, saved["features"].size(0))
        expected = state._tensors()
        for name, tensor in expected.items():
            if name not in saved or saved[name].shape != tensor.shape:
                raise ValueError(f"the state is damaged: {name} must be {tuple(tensor.shape)}")
        tensors = {name: saved[name].to(tensor) for name, tensor in expected.items()}
        state._load(tensors, int(saved["read"]))
        return state

    def _advance(self, features: Tensor) -> None:
        """Past tokens with the features ``(B, T, D)``, which the layers have read."""
        self._features = features[:, -1].clone()  # not a view, which would keep all of them
        self._read += features.size(1)

    def _tensors(self) -> Dict[str, Tensor]:
        """``features (B, D)`` of the last token; of the layers, in a dimension before the others,
        the EMA's ``h (B, D, N)``, and the chunk's ``keys (B, C, Z)`` and ``values (B, C, H)``, with
        zeros where it is not full."""
        like = self._features  # of the model's type, in which keys and values are
        layers = [
            _layer_tensors(state, layer.mega_layer, like)
            for state, layer in zip(self._state.layers, self._model.decoder.layers)
        ]
        h, keys, values = (torch.stack(tensors) for tensors in zip(*layers))
        return {"features": self._features, "h": h, "keys": keys, "values": values}

    def _load(self, saved: Dict[str, Tensor], read: int) -> None:
        self._features, self._read = saved["features"].clone(), read
        filled = read % self._model.chunk_size
        tensors = saved["h"], saved["keys"], saved["values"]
        for state, h, keys, values in zip(self._state.layers, *tensors):
            state.ema = EMAState(h)
            state.cache.clear()
            if filled:
                state.cache.append(keys[:, :filled], values[:, :filled], None)

    def _check(self, tokens: Tensor) -> None:
        batch, words = self._features.size(0), len(self._model.decoder.dictionary)
        if tokens.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"tokens must be int64, as lm.encode gives them, not {tokens.dtype}")
        if tokens.device != self._features.device:
            raise ValueError(
                f"tokens must be on {self._features.device}, as the model is, not {tokens.device}"
            )
        if tokens.dim() != 2 or tokens.size(0) != batch:
            raise ValueError(
                f"tokens must be ({batch}, any length), as the state was started with {batch} "
                f"row(s), but are {tuple(tokens.shape)}"
            )
        pad = self._model.decoder.padding_idx
        outside = (tokens < 0) | (tokens >= words) | (tokens == pad)
        if outside.any():
            raise ValueError(
                f"tokens must be from 0 to {words - 1} and not padding ({pad}), but one is "
                f"{int(tokens[outside][0])}"
            )


def _layer_tensors(state: LayerState, layer, like: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """The EMA's ``h (B, D, N)``, keys ``(B, C, Z)`` and values ``(B, C, H)`` of a Mega layer."""
    assert state.ema is not None  # something was read
    h, cache = state.ema.h, state.cache
    keys = like.new_zeros(h.size(0), layer.chunk_size, layer.zdim)
    values = like.new_zeros(h.size(0), layer.chunk_size, layer.hdim)
    if cache.length > 0:
        keys[:, : cache.length] = cache.keys
        values[:, : cache.length] = cache.values
    return h, keys, values


def _fingerprint(model) -> Tensor:
    """A hash ``(32,)`` of the weights and of the options that they are used with."""
    digest = hashlib.sha256(repr(model.options).encode())
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8, device="cpu")
