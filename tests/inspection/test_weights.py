"""``inspect`` computes what the model computes, and its figures show it."""

import copy
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.models import build_model
from helpers import parse
from masked_lm import SIZES, make_model

from fairseq_mega.inspection import weight_figures as figures
from fairseq_mega.inspection.memory import bias_rows, kernel_rows, memory_rows
from fairseq_mega.inspection.style import grouped
from fairseq_mega.inspection.weights import EMA, SIDES, read_weights
from fairseq_mega.ops.ema.naive import ema_kernel


def published(parity, kind):
    """Returns the checkpoint's layers and all of its weights."""
    path = parity / kind / "checkpoint.pt"
    return read_weights(str(path)).layers, torch.load(path)["model"]


def changed(parity, tmp_path, change):
    """Writes a published checkpoint after ``change(its state)``."""
    state = torch.load(parity / "translation/checkpoint.pt")
    change(state)
    torch.save(state, tmp_path / "changed.pt")
    return str(tmp_path / "changed.pt")


def test_kernels_and_half_lives_are_the_layers_own(parity):
    layers, weights = published(parity, "translation")
    kernels, dimensions = grouped(kernel_rows(layers)[1:], 2), grouped(memory_rows(layers)[1:], 2)
    for layer in layers:
        prefix = "{}.layers.{}.mega_layer.move.".format(*layer.name.split())
        parts = [weights[f"{prefix}{name}"].double().split(layer.dim) for name in EMA]
        for direction, part in zip(("forward", "backward"), zip(*parts)):
            kernel = ema_kernel(*part, 8)  # (D, 8): the model's truncation
            offsets, values = zip(*kernels[layer.name, direction])
            assert torch.allclose(
                torch.tensor(values).double(), kernel.square().mean(0).sqrt(), rtol=1e-6
            )
            sign = -1 if direction == "forward" else 1
            assert list(offsets) == [sign * lag for lag in range(8)]
            rows = dimensions[layer.name, direction]
            first = [row[3] for row in rows if row[0] == 0]
            assert sum(first) == pytest.approx(kernel[0, 0].item())
            delta, alpha = part[:2]
            q = 1 - delta.sigmoid() * alpha.sigmoid()  # (D, N, 1)
            assert np.allclose([row[2] for row in rows], -np.log(2) / q.log().flatten(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["translation", "classification/image"])
def test_the_bias_is_the_models(parity, kind):
    """The biases are those of rotary and simple layers."""
    layers, weights = published(parity, kind)
    offsets, values = zip(*grouped(bias_rows(layers)[1:], 2)["encoder 0", "self"])
    assert list(offsets) == list(range(-offsets[-1], offsets[-1] + 1))
    if kind == "translation":
        prefix = "encoder.layers.0.mega_layer.rel_pos_bias."
        a, b = weights[f"{prefix}alpha"][0], weights[f"{prefix}beta"][0]
        angles = 3 * 10000.0 ** -(torch.arange(8) / 8)
        x = torch.cat([b[:8] * angles.cos() - b[8:] * angles.sin(),
                       b[8:] * angles.cos() + b[:8] * angles.sin()])  # fmt: skip
        assert values[offsets.index(3)] == pytest.approx(float(a @ x), rel=1e-4)
        assert max(row[2] for row in bias_rows(layers)[1:] if row[:2] == ("decoder 0", "self")) == 0
    else:
        table = weights["encoder.encoder.layers.0.mega_layer.rel_pos_bias.rel_pos_bias"]
        assert np.array_equal(values, table.numpy())  # all of it: chunks of 16


def test_shared_parameters_are_counted_once(parity):
    found = read_weights(str(parity / "language_model/checkpoint.pt"))
    _, weights = published(parity, "language_model")
    names = [n for n in weights if not n.endswith(("version", "_float_tensor"))]
    shared = {weights[n].data_ptr(): weights[n].numel() for n in names}
    assert found.parameters == sum(shared.values()) < sum(weights[n].numel() for n in names)


def test_checkpoints_of_all_models(parity, tmp_path):
    images = f"--task image_folder -a mega_tiny_patch16_224 --image-size 12 --patch-size 4 {SIZES}"
    classes = SimpleNamespace(class_names=["a", "b"])
    for arch, model in (
        ("mega_masked_lm", make_model()),
        ("mega_tiny_patch16_224", build_model(copy.deepcopy(parse(images).model), classes)),
    ):
        options = Namespace(arch=arch, dropout=0.0)
        torch.save({"args": options, "model": model.state_dict()}, tmp_path / f"{arch}.pt")
    kinds = ("translation", "language_model", "classification/pair")
    for path in [*tmp_path.iterdir(), *(parity / kind / "checkpoint.pt" for kind in kinds)]:
        found = read_weights(str(path))
        parts = {part.name: part for part in figures.inspect_parts(found)}
        assert {"architecture", "dropout"} <= {row[0] for row in parts["options"].rows}
        assert len(grouped(parts["memory"].rows[1:], 1)) == len(found.layers) >= 2
        for name in ("memory", "kernels", "bias"):
            shown = [axes for axes in parts[name].figure.axes if axes.axison]
            assert shown and all(axes.get_xlabel() and axes.get_ylabel() for axes in shown)


def test_the_figures_show_their_data(parity):
    layers, _ = published(parity, "translation")
    rows = memory_rows(layers)
    for axes, side in zip(figures.memory_figure(rows, {"encoder": 8}).axes, SIDES):
        heights = [y for line in axes.lines for y in np.atleast_1d(line.get_ydata())]
        groups = [group for key, group in grouped(rows[1:], 2).items() if key[0].startswith(side)]
        for values in ([row[2] for row in group] for group in groups):
            assert {min(values), float(np.median(values)), max(values)} <= set(heights)
        assert (8 in heights) == (side == "encoder")  # the chunk size
    for make, rows in (
        (figures.kernel_figure, kernel_rows(layers)),
        (figures.bias_figure, bias_rows(layers)),
    ):
        drawn = [line.get_xydata().tolist() for axes in make(rows).axes for line in axes.lines]
        assert drawn == [[[*row] for row in group] for group in grouped(rows[1:], 2).values()]


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, change, says",
    [
        (".move.alpha", None, "has no move.alpha"),
        (".move.alpha", lambda t: t[:-1], "has the shapes"),
        (".move.gamma", lambda t: t * float("nan"), "a NaN"),
        (".move.delta", None, "without Mega layers"),
    ],
)
def test_damaged_weights_are_named(parity, tmp_path, name, change, says):
    def spoil(state):
        weights = state["model"]
        for key in [key for key in weights if key.endswith(name)]:
            value = weights.pop(key)
            if change is not None:
                weights[key] = change(value)

    with pytest.raises(ValueError, match=says):
        read_weights(changed(parity, tmp_path, spoil))
