"""What a checkpoint holds, from its names, options and weights: no model is built."""

import re
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from ..checkpoints.building import check_finite
from ..checkpoints.trust import PluginModel, check_model, chosen, read_checkpoint, section
from ..ops.ema import EMACoefficients, ema_coefficients
from ..ops.positions import rotary_bias

# Statistics and bookkeeping, which no optimizer changes.
BUFFERS = ("version", "_float_tensor", "running_mean", "running_var", "num_batches_tracked")
# Options that change what a model computes; of those that a checkpoint has, in this order.
OPTIONS = (
    "layers",
    "embed_dim",
    "hidden_dim",
    "ffn_embed_dim",
    "z_dim",
    "n_dim",
    "chunk_size",
    "truncation_length",
    "rel_pos_bias",
    "max_positions",
    "max_source_positions",
    "max_target_positions",
    "attention_activation_fn",
    "activation_fn",
    "normalization_type",
    "normalize_before",
    "normalize_embedding",
    "no_scale_embedding",
    "share_all_embeddings",
    "share_decoder_input_output_embed",
    "adaptive_softmax_cutoff",
    "dropout",
    "attention_dropout",
    "hidden_dropout",
    "activation_dropout",
)
SIDES = ("encoder", "decoder")


class Layer(NamedTuple):
    """The weights of a Mega layer.

    ``name`` is ``encoder 0``, ``decoder 0``, ...; ``weights`` have the names below ``mega_layer.``.
    """

    name: str
    weights: Dict[str, Tensor]
    cross: Dict[str, Tensor]  # those of its cross attention, if it has one
    chunk_size: int  # -1 for none
    truncation: int  # 0 for none

    @property
    def side(self) -> str:
        return self.name.split()[0]

    @property
    def dim(self) -> int:
        return self.weights["move.omega"].numel()

    def directions(self) -> Dict[str, EMACoefficients]:
        """Coefficients ``(D, N)`` of the EMAs, ``forward`` and perhaps ``backward``, in float64."""
        names = ("delta", "alpha", "beta", "gamma")
        parts = (self.weights[f"move.{name}"].double().split(self.dim) for name in names)
        return {
            direction: ema_coefficients(*each)
            for direction, each in zip(("forward", "backward"), zip(*parts))
        }

    @property
    def bidirectional(self) -> bool:
        return self.weights["move.delta"].size(0) == 2 * self.dim


class Inspected(NamedTuple):
    """A checkpoint of a Mega model."""

    path: str
    architecture: str
    task: Optional[str]
    options: Dict[str, Any]
    training: Dict[str, Any]  # what is known of its state
    parts: Dict[str, int]  # parameters
    layers: List[Layer]


def read_weights(path: str) -> Inspected:
    """Reads a checkpoint of this package or of the published code.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: where it is none of a Mega model, or its weights do not fit together.
    """
    state = read_checkpoint(path)
    architecture = chosen(state, "model", path)
    check_model(architecture, PluginModel, path)
    weights = state["model"]
    if not any(".mega_layer.move.delta" in name for name in weights):
        raise ValueError(f"{path} holds no Mega layers, though it is of the model {architecture}")
    _check_memory(weights, path)
    check_finite(weights, path)
    options = section(state, "model")
    layers = [_layer(name, prefix, weights, options, path) for name, prefix in _layers(weights)]
    return Inspected(
        path=str(path),
        architecture=architecture,
        task=chosen(state, "task", path),
        options=_important(options),
        training=_training(state),
        parts=count_parts(weights),
        layers=layers,
    )


def _check_memory(weights: Mapping[str, Tensor], path: str) -> None:
    """
    Raises:
        ValueError: at a weight that claims more numbers than the file has of it.
    """
    for name, value in weights.items():
        plain = value.layout == torch.strided and not value.is_quantized
        plain = plain and value.device.type == "cpu"
        if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{path}: {name:.80} is no plain tensor of as many numbers as it has")


def _layers(weights: Mapping[str, Tensor]) -> Iterator[Tuple[str, str]]:
    """Names of the layers and the beginnings of their weights' names, encoder first."""
    found = []
    for name in weights:
        match = re.fullmatch(r"((?:.*\.)?(\d{1,6}))\.mega_layer\.move\.delta", name)
        if match:
            side = "decoder" if name.startswith("decoder.") else "encoder"
            found.append((SIDES.index(side), int(match[2]), match[1]))
    for side_number, number, prefix in sorted(found):
        yield f"{SIDES[side_number]} {number}", prefix


def _layer(
    name: str, prefix: str, weights: Mapping[str, Tensor], options: Mapping[str, Any], path: str
) -> Layer:
    side = name.split()[0]
    # The decoder's is the encoder's by default; classifiers have one encoder.
    names = f"{side}_chunk_size", "encoder_chunk_size", "chunk_size"
    chunk = next((options[name] for name in names if options.get(name) is not None), None)
    truncation = options.get("truncation_length")
    layer = Layer(
        name,
        _below(weights, f"{prefix}.mega_layer."),
        _below(weights, f"{prefix}.cross_attn."),
        chunk if isinstance(chunk, int) and chunk > 0 else -1,
        truncation if isinstance(truncation, int) and truncation > 0 else 0,
    )
    _check_shapes(layer, path)
    return layer


def _below(weights: Mapping[str, Tensor], prefix: str) -> Dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in weights.items() if n.startswith(prefix)}


def _check_shapes(layer: Layer, path: str) -> None:
    """
    Raises:
        ValueError: where a weight that is looked at is missing, or of another shape.
    """
    names = [f"move.{n}" for n in ("delta", "alpha", "beta", "gamma", "omega")]
    names += ["mx_proj.weight", "mx_proj.bias", "h_proj.weight", "gamma"]
    missing = [name for name in names if name not in layer.weights]
    if missing:
        raise ValueError(f"{path}: the layer {layer.name} has no {missing[0]}")
    shape = {name: tuple(layer.weights[name].shape) for name in names}
    dim, gamma = layer.dim, shape["move.gamma"]
    right = len(gamma) == 2 and min(gamma) > 0 and gamma[0] in (dim, 2 * dim)
    right = right and all(shape[f"move.{n}"] == (*gamma, 1) for n in ("delta", "alpha", "beta"))
    right = right and len(shape["h_proj.weight"]) == 2 and len(shape["gamma"]) == 2
    if right:
        rows = 2 * dim + shape["h_proj.weight"][1] + shape["gamma"][1]
        right = shape["mx_proj.weight"] == (rows, dim) and shape["mx_proj.bias"] == (rows,)
    if not right:
        raise ValueError(f"{path}: weights of the layer {layer.name} do not fit together: {shape}")


def relative_bias(weights: Mapping[str, Tensor], reach: int) -> Optional[Tuple[int, Tensor]]:
    """The bias of the offsets ``j - i`` up to ``reach`` either way, of a ``simple`` or ``rotary``
    one's weights: the first offset, and a number for each from there on. None where there is none.
    """
    table = weights.get("rel_pos_bias.rel_pos_bias")
    if table is not None and table.dim() == 1 and table.numel() % 2:
        reach = min(reach, table.numel() // 2)
        middle = table.numel() // 2
        return -reach, table.double()[middle - reach : middle + reach + 1]
    alpha, beta = (weights.get(f"rel_pos_bias.{name}") for name in ("alpha", "beta"))
    if alpha is None or beta is None or alpha.shape != beta.shape or alpha.numel() % 2:
        return None
    return -reach, rotary_bias(alpha.double(), beta.double(), -reach, reach)


def count_parts(weights: Mapping[str, Tensor]) -> Dict[str, int]:
    """Parameters by part of the model, those that parts share counted where they come first."""
    counts: Dict[str, int] = {}
    seen = set()
    for name, value in weights.items():
        memory = value.untyped_storage().data_ptr(), value.storage_offset(), value.shape
        if name.endswith(BUFFERS) or memory in seen:
            continue
        seen.add(memory)
        counts[_part(name)] = counts.get(_part(name), 0) + value.numel()
    return counts


def _part(name: str) -> str:
    """Layers by what is in them, so that those of all layers are counted together."""
    side = "decoder" if name.startswith("decoder.") else "encoder"
    for sublayer, part in (
        (".mega_layer.move.", "EMA"),
        (".mega_layer.rel_pos_bias.", "relative bias"),
        (".mega_layer.", "gated attention"),
        (".cross_attn.", "cross attention"),
        (".nffn.", "feed-forward"),
    ):
        if sublayer in name:
            return f"{side}: {part}"
    if "embed" in name and "norm" not in name:
        return f"{side}: embeddings"
    if "norm" in name:
        return f"{side}: norms outside layers"
    return "output"


def _important(options: Mapping[str, Any]) -> Dict[str, Any]:
    names = [f"{side}{name}" for name in OPTIONS for side in ("", "encoder_", "decoder_")]
    plain = (bool, int, float, str)
    found = {name: options[name] for name in names if options.get(name) is not None}
    return {name: value for name, value in found.items() if isinstance(value, plain)}


def _training(state: Mapping[str, Any]) -> Dict[str, Any]:
    """What a checkpoint says of its training, by what it is called in pages."""
    extra, history = state.get("extra_state"), state.get("optimizer_history")
    extra = extra if isinstance(extra, dict) else {}
    iterator = extra.get("train_iterator")
    last = history[-1] if isinstance(history, list) and history else None
    last = last if isinstance(last, dict) else {}
    said = {
        "epoch": (iterator if isinstance(iterator, dict) else {}).get("epoch"),
        "updates": last.get("num_updates"),
        "loss on the validation set (or the metric in its place)": extra.get("val_loss"),
        "best so far": extra.get("best"),
        "optimizer": last.get("optimizer_name"),
        "criterion": last.get("criterion_name"),
        "seconds of training": extra.get("previous_training_time"),
    }
    return {name: value for name, value in said.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1
    return value is not None and not isinstance(value, (dict, list, tuple))
