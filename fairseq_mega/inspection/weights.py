"""Reads layers, options and training state from a checkpoint, without building the model."""

import re
from typing import Any, Dict, List, Mapping, NamedTuple

from fairseq.models import MODEL_DATACLASS_REGISTRY
from torch import Tensor

from ..checkpoints.reading import check_finite, chosen, read_checkpoint, section
from ..checkpoints.trust import PluginModel, check_model
from ..ops.ema import EMACoefficients, ema_coefficients

# Buffers, which are not parameters.
BUFFERS = ("version", "_float_tensor", "running_mean", "running_var", "num_batches_tracked")
SIDES = ("encoder", "decoder")
EMA = ("delta", "alpha", "beta", "gamma")


class Layer(NamedTuple):
    """The weights of the Mega layer ``encoder 0``, ..., by their names below ``mega_layer.``."""

    name: str
    weights: Dict[str, Tensor]
    cross: Dict[str, Tensor]  # cross attention, empty if there is none
    chunk_size: int  # -1 for none
    chunks_before: int  # that attention sees
    truncation: int  # 0 for none

    @property
    def dim(self) -> int:
        return self.weights["move.omega"].numel()

    @property
    def bidirectional(self) -> bool:
        return self.weights["move.delta"].size(0) == 2 * self.dim

    def directions(self) -> Dict[str, EMACoefficients]:
        """Returns coefficients ``(D, N)`` of the ``forward`` and, in encoders, ``backward`` EMA."""
        parts = [self.weights[f"move.{name}"].double().split(self.dim) for name in EMA]
        coefficients = [ema_coefficients(*each) for each in zip(*parts)]
        return dict(zip(("forward", "backward"), coefficients))


class Inspected(NamedTuple):
    """A checkpoint of a Mega model."""

    path: str
    architecture: str
    options: Dict[str, str]
    training: Dict[str, str]
    parameters: int
    layers: List[Layer]


def read_weights(path: str) -> Inspected:
    """Reads a checkpoint of this package or of the published code."""
    state = read_checkpoint(path)
    architecture = check_model(chosen(state, "model"), PluginModel, path)
    weights = state["model"]
    check_finite(weights, path)
    given = section(state, "model")
    declared = MODEL_DATACLASS_REGISTRY[architecture].__dataclass_fields__
    options = {name: given[name] for name in declared if given.get(name) is not None}
    layers = _read_layers(weights, given, path)
    if not layers:
        raise ValueError(
            f"{path} holds {architecture} without Mega layers: copy or convert it again"
        )
    return Inspected(
        path=path,
        architecture=architecture,
        options={name: f"{value!s:.80}" for name, value in options.items()},
        training=_training(state),
        parameters=count_parameters(weights),
        layers=layers,
    )


def _read_layers(
    weights: Mapping[str, Tensor], options: Mapping[str, Any], path: str
) -> List[Layer]:
    """Returns the layers, the encoder's first."""
    found = []
    for name in weights:
        match = re.fullmatch(r"((?:.*\.)?(\d{1,6}))\.mega_layer\.move\.delta", name)
        if match:
            found.append((name.startswith("decoder."), int(match[2]), match[1]))
    layers = []
    for decoder, number, prefix in sorted(found):
        side = SIDES[decoder]
        chunk, before = (_option(options, side, name) for name in ("chunk_size", "chunks_before"))
        truncation = options.get("truncation_length")
        layer = Layer(
            f"{side} {number}",
            _below(weights, f"{prefix}.mega_layer."),
            _below(weights, f"{prefix}.cross_attn."),
            chunk if isinstance(chunk, int) and chunk > 0 else -1,
            before if isinstance(before, int) and before > 0 else 0,
            truncation if isinstance(truncation, int) and truncation > 0 else 0,
        )
        _check_ema(layer, path)
        layers.append(layer)
    return layers


def _option(options: Mapping[str, Any], side: str, name: str) -> Any:
    """Returns an option that the decoder has from the encoder by default; classifiers have one
    encoder, whose options do not name it."""
    names = f"{side}_{name}", f"encoder_{name}", name
    return next((options[each] for each in names if options.get(each) is not None), None)


def _below(weights: Mapping[str, Tensor], prefix: str) -> Dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in weights.items() if n.startswith(prefix)}


def _check_ema(layer: Layer, path: str) -> None:
    for name in ("omega", *EMA):
        if f"move.{name}" not in layer.weights:
            raise ValueError(
                f"{path}: layer {layer.name} has no move.{name}: copy or convert it again"
            )
    shapes = {name: tuple(layer.weights[f"move.{name}"].shape) for name in EMA}
    gamma = shapes["gamma"]
    fits = len(gamma) == 2 and min(gamma) > 0 and gamma[0] in (layer.dim, 2 * layer.dim)
    if not fits or any(shapes[name] != (*gamma, 1) for name in EMA[:3]):
        raise ValueError(
            f"{path}: the EMA of layer {layer.name} has the shapes {shapes}, which do not fit "
            "together: copy or convert it again"
        )


def count_parameters(weights: Mapping[str, Tensor]) -> int:
    """Counts the parameters; shared parameters count once."""
    own = [value for name, value in weights.items() if not name.endswith(BUFFERS)]
    places = [(v.untyped_storage().data_ptr(), v.storage_offset(), v.shape) for v in own]
    return sum(value.numel() for value in dict(zip(places, own)).values())


def _training(state: Mapping[str, Any]) -> Dict[str, str]:
    """Returns the number of updates and the validation results, by fairseq's names."""
    history, extra = state.get("optimizer_history"), state.get("extra_state")
    last = history[-1] if isinstance(history, list) and history else None
    parts = [part for part in (last, extra) if isinstance(part, dict)]
    names = ("num_updates", "val_loss", "best")
    return {name: f"{part[name]!s:.80}" for part in parts for name in names if name in part}
