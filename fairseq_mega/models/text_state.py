"""The state of a language model that reads a text: it can be saved, restored and forked."""

import copy
import hashlib
from typing import Dict, List

import torch
from torch import Tensor

from ..modules.state import HiddenState
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

    ``MegaLanguageModel.start`` makes a new state, ``MegaLanguageModel.restore`` loads a saved one.
    Its size is constant: for each row, in each layer, the EMA's ``D N`` values (in float32 at
    least), ``C (Z + H)`` of the chunk and of each chunk before it that attention sees, and ``D``
    features of the last token. The model must not change while the state is in use.
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
        start = torch.full((batch, 1), eos, device=device)  # fairseq's texts start with it
        self._advance(model.decoder.read(start, self._state))

    @torch.no_grad()
    def read(self, tokens: Tensor) -> Tensor:
        """Continues the text, at most a segment at a time.

        Args:
            tokens: ``(B, T)``, any number of them, without padding.

        Returns:
            the log-probability of each token after all the text before it, ``(B, T)``.

        Raises:
            ValueError: if the model cannot read the tokens. The state remains as it was.
            InterruptedReadError: if an earlier read was interrupted.
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
        """Log-probabilities of the next token, ``(B, V)``."""
        self._state.check()
        decoder = self._model.decoder
        scores = decoder.output_layer(self._features.unsqueeze(1))
        return decoder.get_normalized_probs((scores,), log_probs=True).squeeze(1)

    def fork(self, count: int) -> List["TextState"]:
        """Makes ``count`` copies, which are independent of each other and of this state."""
        self._state.check()
        forks = [copy.copy(self) for _ in range(count)]
        for fork in forks:
            with torch.inference_mode(False):  # so that the copies can be used outside of it
                fork._state = copy.deepcopy(self._state)
        return forks

    @property
    def nbytes(self) -> int:
        """The size in bytes of the saved tensors, without the length and the fingerprint."""
        return sum(t.numel() * t.element_size() for t in self._tensors().values())

    def save(self) -> Dict[str, Tensor]:
        """Returns the state as tensors, for ``torch.save`` or ``safetensors.torch.save_file``, with
        a fingerprint of the model, for which all weights are read once."""
        self._state.check()
        return {
            **self._tensors(),
            "read": torch.tensor(self._read),
            "fingerprint": _fingerprint(self._model),
        }

    @classmethod
    def restored(cls, model, saved: Dict[str, Tensor]) -> "TextState":
        """Implements ``MegaLanguageModel.restore``."""
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
        state._features, state._read = tensors["features"].clone(), int(saved["read"])
        size, before = model.chunk_size, model.chunks_before
        filled = state._read % size + min(state._read // size, before) * size
        each = zip(state._state.layers, tensors["h"], tensors["keys"], tensors["values"])
        for layer, h, keys, values in each:
            layer.ema = HiddenState(h)
            layer.cache.clear()
            if filled:
                layer.cache.append(keys[:, :filled], values[:, :filled], None)
        return state

    def _advance(self, features: Tensor) -> None:
        """Notes that the layers have read tokens with the features ``(B, T, D)``."""
        self._features = features[:, -1].clone()  # not a view, which would keep all of them
        self._read += features.size(1)

    def _tensors(self) -> Dict[str, Tensor]:
        """``features (B, D)`` of the last token, and of all layers, which are the first dimension,
        the EMA's ``h (B, D, N)``, and ``keys (B, (P + 1) C, Z)`` and ``values (B, (P + 1) C, H)``
        of the chunk and the ``P`` before it, with zeros where they are not full."""
        h, keys, values = [], [], []
        for state, layer in zip(self._state.layers, self._model.decoder.layers):
            cache, sizes = state.cache, layer.mega_layer
            shape = self._features.size(0), sizes.span
            h.append(state.ema.h)
            keys.append(self._features.new_zeros(*shape, sizes.zdim))
            values.append(self._features.new_zeros(*shape, sizes.hdim))
            if cache.length > 0:
                keys[-1][:, : cache.length] = cache.keys
                values[-1][:, : cache.length] = cache.values
        stacked = {"h": torch.stack(h), "keys": torch.stack(keys), "values": torch.stack(values)}
        return {"features": self._features, **stacked}

    def _check(self, tokens: Tensor) -> None:
        batch, device = self._features.size(0), self._features.device
        whole = tokens.dtype in (torch.int64, torch.int32)
        if not whole or tokens.device != device or tokens.dim() != 2 or tokens.size(0) != batch:
            raise ValueError(
                f"tokens must be int64 of shape ({batch}, any length) on {device}, as lm.encode "
                f"and lm.start gave them, but are {tokens.dtype} of shape {tuple(tokens.shape)} on "
                f"{tokens.device}"
            )
        words, pad = len(self._model.decoder.dictionary), self._model.decoder.padding_idx
        outside = (tokens < 0) | (tokens >= words) | (tokens == pad)
        if outside.any():
            raise ValueError(
                f"tokens must be from 0 to {words - 1} and not padding ({pad}), but one is "
                f"{int(tokens[outside][0])}"
            )


def _fingerprint(model) -> Tensor:
    """Hash ``(32,)`` of the weights and the options."""
    digest = hashlib.sha256(repr(model.options).encode())
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8, device="cpu")
