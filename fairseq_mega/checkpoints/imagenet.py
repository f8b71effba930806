"""Converts the published checkpoints for ImageNet, whose EMA has another form.

There, ``alpha`` and ``delta`` have each other's names, and the backward sum begins at the next
position: ``y_t = sum_{tau >= 0} k_f[tau] x_{t - tau} + k_b[tau] x_{t + 1 + tau}``. The backward
kernel here begins at the position itself. With ``gamma / q`` instead of ``gamma`` it is
``k[tau] = k_b[tau - 1]`` for ``tau >= 1``, as wanted, and at the position itself
``k[0] = sum_n p beta gamma / (q sqrt(N))``, which is taken from ``omega``.
"""

import math
from pathlib import Path
from typing import Any, Dict, Mapping

import torch
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY
from torch import Tensor

from .building import load_model, make_config, new_checkpoint
from .reading import load, named_weights
from .writing import new_file

ARCH = "mega_base_patch16_224"
# Above, the difference of omega and tap 0 loses more than three of float32's seven digits.
LARGEST_TAP = 1e4
EMA = ("delta", "alpha", "beta", "gamma", "omega")


def convert_imagenet(file: Path, out: Path) -> None:
    """Writes the checkpoint ``out`` for fairseq's commands from one of the published image code:
    weights, or a dictionary with them as ``model``.

    Raises:
        ValueError: if it is not one, or its EMA cannot be written in the form here.
        FileExistsError: if ``out`` exists.
    """
    state = load(file)
    state = state.get("model", state) if isinstance(state, dict) else state
    weights = {
        name: value.float() if value.is_floating_point() else value
        for name, value in named_weights(state, file).items()
        if not name.endswith("._float_tensor")
    }
    options = find_options(weights, file)
    for layer in range(options["encoder_layers"]):
        prefix = f"blocks.{layer}.mega_layer.move."
        theirs = {name: weights[prefix + name] for name in EMA}
        ours = convert_ema(theirs, f"{file}: {prefix[:-1]}")
        weights.update({prefix + name: value for name, value in ours.items()})
    size = options.pop("image_size")
    task = dict(_name="image_folder", data="", image_size=size, train_subset="train")
    config = make_config(task, options, dict(_name="label_smoothed_cross_entropy"))
    classes, kind = len(weights["head.weight"]), ARCH_MODEL_REGISTRY[ARCH]
    model = load_model(lambda: kind(config.model, classes), weights, str(file))
    with new_file(out) as part:
        torch.save(new_checkpoint(config, model.state_dict()), part)


def find_options(weights: Mapping[str, Tensor], file: Path) -> Dict[str, Any]:
    """Returns the options of the architecture with the sizes of the weights; the others are the
    published ones: Laplace attention, the ``simple`` bias, layer norm."""
    try:
        layer = "blocks.0.mega_layer."
        patch = weights["patch_embed.pemb.proj.weight"].size(-1)
        positions, dim = weights["pos_embed"].shape[1:]
        sizes = dict(
            patch_size=patch,
            encoder_layers=len({name.split(".")[1] for name in weights if "blocks." in name}),
            encoder_embed_dim=dim,
            encoder_hidden_dim=weights[layer + "v_proj.weight"].size(0),
            encoder_ffn_embed_dim=weights["blocks.0.nffn.fc1.weight"].size(0),
            encoder_z_dim=weights[layer + "gamma"].size(1),
            encoder_n_dim=weights[layer + "move.gamma"].size(1),
            image_size=patch * math.isqrt(positions),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{file} is not a checkpoint of a Mega model of images: it lacks {error}"
        ) from error
    fields = MODEL_DATACLASS_REGISTRY[ARCH].__dataclass_fields__
    published = ("attention_activation_fn", "dropout", "truncation_length")
    return {"_name": ARCH, **{name: fields[name].default for name in published}, **sizes}


def convert_ema(theirs: Mapping[str, Tensor], where: str) -> Dict[str, Tensor]:
    """
    Args:
        theirs: ``delta, alpha, beta (2D, N, 1)``, ``gamma (2D, N)``, ``omega (D,)``; rows from D on
            are the backward EMA's.
        where: the name of the EMA, for errors.

    Returns:
        the same, of the EMA here (float32; computed in float64).

    Raises:
        ValueError: if a ``q`` of the backward EMA is so small that ``gamma / q`` is out of
            reach; names it.
    """
    dim = theirs["omega"].numel()
    delta, alpha = theirs["alpha"], theirs["delta"]
    back = [value[dim:].double().squeeze(-1) for value in (delta, alpha, theirs["beta"])]
    p, beta = torch.sigmoid(back[0]), back[2]
    q = torch.sigmoid(-back[0]) + p * torch.sigmoid(-back[1])  # 1 - p a, exact near 0
    gamma = theirs["gamma"].double()
    shifted = gamma[dim:] / q  # (D, N)
    taps = p * beta * shifted / math.sqrt(gamma.size(1))
    size = taps.abs().sum(dim=1)  # (D,)
    if not (size <= LARGEST_TAP).all():
        channel = int(torch.nan_to_num(size, nan=math.inf).argmax())
        raise ValueError(
            f"{where}: the backward EMA of channel {channel} has q = {q[channel].min():.1e}, with "
            f"which gamma / q makes a tap of {size[channel]:.1e}, more than {LARGEST_TAP:.0e}: "
            "float32 cannot hold the rest, so this checkpoint cannot be converted"
        )
    return {
        "delta": delta,
        "alpha": alpha,
        "beta": theirs["beta"],
        "gamma": torch.cat([gamma[:dim], shifted]).float(),
        "omega": (theirs["omega"].double() - taps.sum(dim=1)).float(),
    }
