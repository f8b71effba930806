"""What ``inspect`` says of a checkpoint: its numbers, and the pictures that show them."""

import copy
import math
from types import SimpleNamespace

import fairseq.models
import numpy as np
import pytest
import torch
from helpers import parse
from masked_lm import HUGGINGFACE, SIZES
from omegaconf import OmegaConf

from fairseq_mega.checkpoints.exchange import new_checkpoint
from fairseq_mega.checkpoints.huggingface import convert_huggingface
from fairseq_mega.inspection import weight_pictures as pictures
from fairseq_mega.inspection.inspect_page import inspect_sections
from fairseq_mega.inspection.memory import gates_of, kernel_energy, kernels_of, quantiles, spans_of
from fairseq_mega.inspection.page import Picture
from fairseq_mega.inspection.weights import read_weights
from fairseq_mega.ops.ema.naive import ema_kernel

KINDS = [
    "translation",
    "language_model",
    "classification/image",
    "classification/pair",
    "classification/speech",
    "classification/text",
]


def changed(parity, tmp_path, change, kind="translation"):
    """A published checkpoint after ``change(its weights)``."""
    state = torch.load(parity / kind / "checkpoint.pt")
    change(state["model"])
    torch.save(state, tmp_path / "changed.pt")
    return str(tmp_path / "changed.pt")


def rows_of(sections, name):
    """The rows of a picture or table, as dictionaries."""
    (part,) = [part for section in sections for part in section.parts if part.name == name]
    head, *rows = part.rows
    return [dict(zip(head, row)) for row in rows]


def check_axes(figure, panels):
    """So many panels, each with a name and a unit on each axis, or a scale on a bar of colours."""
    shown = [axes for axes in figure.axes if axes.axison]
    assert len(shown) == panels
    for axes in shown:
        assert axes.get_ylabel() and (axes.get_xlabel() or axes.get_label() == "<colorbar>")


# --- numbers ------------------------------------------------------------------------------------


def test_half_lives_are_those_of_the_coefficients(parity, tmp_path):
    """From a fraction of a token to millions of them."""

    def change(weights):
        for name, value in weights.items():
            if name.endswith((".move.delta", ".move.alpha")):
                values = torch.linspace(-9, 9, value.numel())
                if name.endswith("alpha"):
                    values = values[torch.randperm(len(values), generator=generator)]
                value.copy_(values.view_as(value))

    generator = torch.Generator().manual_seed(1)
    path = changed(parity, tmp_path, change)
    weights = torch.load(path)["model"]
    rows = rows_of(inspect_sections(read_weights(path)), "memory")
    spans = {
        (row["layer"], row["direction"], row["channel"], row["dimension"]): row for row in rows
    }
    assert len(spans) == len(rows) == sum(w.numel() for n, w in weights.items() if "delta" in n)
    lengths = []
    for (layer, direction, channel, n), row in spans.items():
        side, number = layer.split()
        dim = len(weights[f"{side}.layers.{number}.mega_layer.move.omega"])
        at = channel + (dim if direction == "backward" else 0), n, 0
        delta, alpha = (
            weights[f"{side}.layers.{number}.mega_layer.move.{name}"][at].item()
            for name in ("delta", "alpha")
        )
        p_a = 1 / ((1 + math.exp(-delta)) * (1 + math.exp(-alpha)))
        expected = math.log(2) / -math.log1p(-p_a)
        assert row["half_life_tokens"] == pytest.approx(expected, rel=1e-6)
        lengths.append(expected)
    assert min(lengths) < 0.2 and max(lengths) > 1e4
    assert {direction for _, direction, _, _ in spans} == {"forward", "backward"}
    assert not any(layer[0] == "d" and to == "backward" for layer, to, _, _ in spans)


def test_kernels_are_the_layers_own(parity):
    path = str(parity / "translation/checkpoint.pt")
    weights = torch.load(path)["model"]
    for layer in read_weights(path).layers:
        side, number = layer.name.split()
        names = ("delta", "alpha", "beta", "gamma")
        parts = [weights[f"{side}.layers.{number}.mega_layer.move.{n}"].double() for n in names]
        for kernel in kernels_of(layer):
            first = layer.dim if kernel.direction == "backward" else 0
            mine = [part[first : first + layer.dim] for part in parts]
            taps = ema_kernel(*mine, 8)  # the model's truncation
            lags = kernel.lags.long()
            assert torch.allclose(kernel.taps, taps[kernel.channel, lags], rtol=1e-9)
            assert lags.min() == 0 and lags.max() == 7
            if kernel.which == "strongest":
                whole = ema_kernel(*mine, 3000)
                assert kernel.channel == whole.square().sum(1).argmax()


def test_the_energy_of_kernels_is_that_of_their_sum(parity):
    layer = read_weights(str(parity / "language_model/checkpoint.pt")).layers[0]
    parts = [layer.weights[f"move.{n}"].double() for n in ("delta", "alpha", "beta", "gamma")]
    squares = ema_kernel(*parts, 5000).square()
    energy, lag = kernel_energy(layer.directions()["forward"])
    assert torch.allclose(energy, squares.sum(1), rtol=1e-6)
    assert torch.allclose(lag, (squares * torch.arange(5000)).sum(1) / energy, rtol=1e-6)


def test_gates_are_those_of_a_zero_input(parity):
    path = str(parity / "translation/checkpoint.pt")
    weights = torch.load(path)["model"]
    layer = read_weights(path).layers[-1]
    gates = {gate.gate: gate for gate in gates_of(layer)}
    prefix = "decoder.layers.1"
    bias = weights[f"{prefix}.mega_layer.mx_proj.bias"].double()
    matrix = weights[f"{prefix}.mega_layer.mx_proj.weight"].double()
    assert torch.allclose(gates["update gate u"].at_zero, bias[:32].sigmoid())
    r = slice(32 + 16, 32 + 16 + 64)  # after u and z
    assert torch.allclose(gates["reset gate r"].at_zero, torch.nn.functional.silu(bias[r]))
    assert torch.allclose(gates["reset gate r"].reach, matrix[r].square().sum(1).sqrt())
    cross = weights[f"{prefix}.cross_attn.q_proj.bias"].double()
    expected = torch.nn.functional.silu(cross[32:64])
    assert torch.allclose(gates["cross attention's reset gate r"].at_zero, expected)


@pytest.mark.parametrize("kind", ["translation", "classification/image"])
def test_the_bias_is_the_models(parity, kind):
    """A rotary one, and the table of a simple one."""
    state = torch.load(parity / kind / "checkpoint.pt")["model"]
    layers = read_weights(str(parity / kind / "checkpoint.pt")).layers
    rows = [row for row in pictures.bias_rows(layers)[1:] if row[:2] == ("encoder 0", "self")]
    offsets, values = zip(*(row[2:] for row in rows))
    assert list(offsets) == list(range(offsets[0], offsets[-1] + 1)) and offsets[0] == -offsets[-1]
    if kind == "translation":
        a, b = (
            state[f"encoder.layers.0.mega_layer.rel_pos_bias.{n}"][0] for n in ("alpha", "beta")
        )
        angles = 3 * 10000.0 ** -(torch.arange(8) / 8)
        x = torch.cat([b[:8] * angles.cos() - b[8:] * angles.sin(),
                       b[8:] * angles.cos() + b[:8] * angles.sin()])  # fmt: skip
        assert values[offsets.index(3)] == pytest.approx(float(a @ x), rel=1e-4)
    else:
        table = state["encoder.encoder.layers.0.mega_layer.rel_pos_bias.rel_pos_bias"]
        assert np.allclose(values, table.numpy(), atol=0)  # of chunks of 16, all of it


def test_parameters_are_counted_once(parity):
    found = read_weights(str(parity / "language_model/checkpoint.pt"))
    weights = torch.load(parity / "language_model/checkpoint.pt")["model"]
    names = [n for n in weights if not n.endswith(("version", "_float_tensor"))]
    shared = {weights[n].data_ptr(): weights[n].numel() for n in names}
    assert (
        sum(found.parts.values()) == sum(shared.values()) < sum(weights[n].numel() for n in names)
    )
    assert found.parts["decoder: EMA"] == sum(weights[n].numel() for n in names if ".move." in n)


@pytest.mark.parametrize("kind", KINDS)
def test_published_checkpoints_of_all_kinds(parity, kind):
    found = read_weights(str(parity / kind / "checkpoint.pt"))
    sections = inspect_sections(found)
    said = {row["option"]: row["value"] for row in rows_of(sections, "options")}
    assert said["architecture"] == found.architecture and "dropout" in said
    training = {row[""]: row["value"] for row in rows_of(sections, "training")}
    assert training["updates"] in ("42", "120", "900") and training["epoch"].isdigit()
    layers = len(found.layers)
    assert layers == (4 if kind == "translation" else 2)
    sides = 2 if kind == "translation" else 1
    panels = {"memory": sides, "kernels": layers, "bias": layers, "gates": 8 if sides == 2 else 4}
    for part in (part for section in sections for part in section.parts):
        if isinstance(part, Picture):
            check_axes(part.figure, panels.pop(part.name))
    assert not panels


def image_checkpoint(path):
    options = f"--task image_folder -a mega_tiny_patch16_224 --image-size 12 --patch-size 4 {SIZES}"
    cfg = copy.deepcopy(parse(options))
    task = SimpleNamespace(class_names=["a", "b"])
    model = fairseq.models.build_model(cfg.model, task)
    torch.save(new_checkpoint(OmegaConf.create(cfg), model.state_dict()), path)
    return path


def test_masked_language_models_and_models_of_images(tmp_path):
    convert_huggingface(HUGGINGFACE / "masked_lm_chunks", tmp_path / "mlm", mask_id=23)
    for path in (tmp_path / "mlm/model.pt", image_checkpoint(tmp_path / "image.pt")):
        found = read_weights(str(path))
        assert {layer.side for layer in found.layers} == {"encoder"}
        assert all(layer.bidirectional for layer in found.layers)
        assert len(rows_of(inspect_sections(found), "memory")) > 0


# --- pictures -----------------------------------------------------------------------------------


def test_the_picture_of_memory_shows_the_numbers_of_its_csv(parity):
    found = read_weights(str(parity / "translation/checkpoint.pt"))
    sections = inspect_sections(found)
    rows = rows_of(sections, "memory")
    spans = [each for layer in found.layers for each in spans_of(layer)]
    figure = pictures.memory_figure(spans, {"encoder": 8, "decoder": 8})
    for axes, side in zip(figure.axes, ("encoder", "decoder")):
        assert axes.get_title() == side and axes.get_xscale() == "log"
        assert axes.get_xlabel() == "half-life (tokens)"
        drawn = {
            line.get_marker(): [] for line in axes.lines
        }  # the median, the longest, and the chunk's border
        for line in axes.lines:
            drawn[line.get_marker()].append(line.get_xdata()[0])
        groups = {}
        for row in rows:
            if row["layer"].startswith(side):
                key = row["layer"], row["direction"]
                groups.setdefault(key, []).append(row["half_life_tokens"])
        assert sorted(drawn["D"]) == pytest.approx(sorted(max(g) for g in groups.values()))
        medians = [torch.tensor(g, dtype=torch.float64).median().item() for g in groups.values()]
        assert sorted(drawn["|"]) == pytest.approx(sorted(medians))
        assert drawn["None"] == [8]
        hatched = [area for area in axes.collections if area.get_hatch()]
        assert len(hatched) == (2 if side == "encoder" else 0)


def test_boxes_of_gates_are_percentiles():
    values = torch.arange(101, dtype=torch.float64)[torch.randperm(101)]
    assert quantiles(values) == {"p5": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95}


def test_the_picture_of_kernels_has_the_backward_one_on_the_right(parity):
    found = read_weights(str(parity / "translation/checkpoint.pt"))
    kernels = [each for layer in found.layers for each in kernels_of(layer)]
    figure = pictures.kernel_figure(kernels)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
    mine = [each for each in kernels if each.layer == "encoder 0"]
    for line, kernel in zip(lines, mine):
        sign = 1 if kernel.direction == "backward" else -1
        assert np.array_equal(line.get_xdata(), sign * kernel.lags.numpy())
        assert np.array_equal(line.get_ydata(), kernel.taps.numpy())
    styles = {(line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(styles) == 2  # of the strongest and the longest, whatever the colours


# --- bad input ----------------------------------------------------------------------------------


def test_checkpoints_of_other_models_are_refused(parity, tmp_path):
    state = torch.load(parity / "translation/checkpoint.pt")
    other = copy.copy(state)
    other["args"].arch = "transformer"
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="holds a TransformerModel, not a MegaCheckpoint.*built"):
        read_weights(str(tmp_path / "other.pt"))
    with pytest.raises(FileNotFoundError):
        read_weights(str(tmp_path / "none.pt"))


def spoil(name, value):
    def change(weights):
        for key in list(weights):
            if key.endswith(name):
                weights[key] = value(weights.pop(key)) if value else weights.pop(key)
                if value is None:
                    del weights[key]

    return change


@pytest.mark.parametrize(
    "name, value, says",
    [
        (".move.alpha", None, "has no move.alpha"),
        (".move.alpha", lambda t: t[:-1], "do not fit together"),
        (".mx_proj.bias", lambda t: t[:3], "do not fit together"),
        (".move.gamma", lambda t: t * float("nan"), "a NaN"),
        (".move.delta", None, "holds no Mega layers"),
    ],
)
def test_damaged_weights_are_named(parity, tmp_path, name, value, says):
    path = changed(parity, tmp_path, spoil(name, value))
    with pytest.raises(ValueError, match=says):
        read_weights(path)
