"""The model of images: its size, what it computes, stochastic depth, conversion of checkpoints."""

import math
from argparse import Namespace

import pytest
import reference
import torch
import torch.nn.functional as F
from all_models import IMAGENET
from all_models import build_imagenet as build
from fairseq.checkpoint_utils import load_model_ensemble
from helpers import GATED, assert_close, randn, scatter

from fairseq_mega.__main__ import main
from fairseq_mega.modules import MovingAverageGatedAttention, NormalizedFeedForwardNetwork
from fairseq_mega.modules.dropout import Dropout, FeatureDropout
from fairseq_mega.modules.stochastic_depth import PathDropout, drop_paths_
from fairseq_mega.ops.dropout import apply_mask

LAYER = {
    **GATED, "embed_dim": 12, "hdim": 16, "max_positions": 9, "attention_activation": "laplace",
    "bidirectional": True,
}  # fmt: skip


@pytest.mark.parametrize("size, parameters", [("base", 90_734_140), ("tiny", 6_209_596)])
def test_published_parameters(size, parameters):
    with torch.device("meta"):
        model = build(f"--task image_folder -a mega_{size}_patch16_224", classes=1000)
    assert sum(p.numel() for p in model.parameters()) == parameters


# --- the published equations, literally -----------------------------------------------------------


def published_ema(x, padding_mask, params, bidirectional, truncation):
    """An EMA with alpha and delta exchanged and the backward sum from the next position."""
    _, length, dim = x.shape
    p = torch.sigmoid(params["alpha"].squeeze(-1))
    q = 1 - p * torch.sigmoid(params["delta"].squeeze(-1))
    weight = p * params["beta"].squeeze(-1) * params["gamma"] / math.sqrt(p.size(1))
    kernel = torch.stack([(weight * q**tau).sum(dim=1) for tau in range(length)])  # (taps, 2D)
    y = torch.zeros_like(x)
    for t in range(length):
        for tau in range(t + 1):
            y[:, t] = y[:, t] + kernel[tau, :dim] * x[:, t - tau]
        for tau in range(length - t - 1):
            y[:, t] = y[:, t] + kernel[tau, dim:] * x[:, t + 1 + tau]
    return y + params["omega"] * x


def published_scores(weights, images, patch):
    """Scores (B, classes) by the published equations, if ``reference.ema`` is the published one."""
    batch, _, high, wide = images.shape
    kernel = weights["patch_embed.pemb.proj.weight"].flatten(1)
    rows = []
    for top in range(0, high, patch):
        for left in range(0, wide, patch):
            pixels = images[:, :, top : top + patch, left : left + patch].reshape(batch, -1)
            rows.append(pixels @ kernel.t() + weights["patch_embed.pemb.proj.bias"])
    x = torch.stack(rows, dim=1) + weights["pos_embed"]  # (B, L, D)
    for i in range(2):
        layer = reference.under(weights, f"blocks.{i}")
        x, _ = reference.mega_layer(reference.under(layer, "mega_layer"), LAYER, x)
        x = reference.feed_forward(reference.under(layer, "nffn"), LAYER, x)
    x = reference.norm(reference.under(weights, "final_norm.norm"), "layernorm", x)
    x = F.silu(reference.linear(reference.under(weights, "out_proj.fc"), x)).mean(dim=1)
    return reference.linear(reference.under(weights, "head"), x)


@pytest.mark.parametrize("holds", ["model", None])
def test_converted_checkpoints_give_the_published_scores(holds, tmp_path, monkeypatch):
    weights = {name: value.clone() for name, value in scatter(build()).state_dict().items()}
    extra = {"blocks.0.mega_layer.rel_pos_bias._float_tensor": torch.zeros(1)}
    saved = {**weights, **extra}
    state = {"model": saved, "args": Namespace(lr=1.0), "epoch": 3} if holds else saved
    torch.save(state, tmp_path / "theirs.pth")
    main(["convert-imagenet", str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pt")])

    (tmp_path / "data").mkdir()
    for name in "abcde":
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
    overrides = {"data": str(tmp_path / "data")}
    (model,), _ = load_model_ensemble([str(tmp_path / "ours.pt")], overrides)
    images = randn(3, 3, 12, 12)
    monkeypatch.setattr(reference, "ema", published_ema)
    with torch.no_grad():
        double = {name: value.double() for name, value in weights.items()}
        expected = published_scores(double, images, 4)
        assert_close(model.eval()(images.float()).double(), expected, 1e-5)


def test_an_ema_that_forgets_at_once_is_refused(tmp_path):
    model = scatter(build())
    for name in ("alpha", "delta"):
        getattr(model.blocks[1].mega_layer.move, name).data[12 + 7, 2] = 30.0
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(SystemExit, match=r"blocks\.1\.mega_layer\.move.*channel 7 has q = .*e-13"):
        main(["convert-imagenet", str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pt")])
    assert not (tmp_path / "ours.pt").exists()


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "theirs.pth"
    for state, message in (({"model": 3}, "has no weights"), ({"a": torch.ones(1)}, "it lacks")):
        torch.save(state, path)
        with pytest.raises(SystemExit, match=message):
            main(["convert-imagenet", str(path), str(tmp_path / "ours.pt")])
    path.write_bytes(b"no checkpoint")
    with pytest.raises(SystemExit, match="cannot be read"):
        main(["convert-imagenet", str(path), str(tmp_path / "ours.pt")])


# --- stochastic depth -----------------------------------------------------------------------------


def test_a_dropped_path_of_the_mega_layer_leaves_the_gated_residual(monkeypatch):
    layer = MovingAverageGatedAttention(**LAYER)
    drop_paths_(layer, 0.5)
    layer = scatter(layer).double()
    x = randn(40, 9, 12)
    kept = layer.eval()(x)[0]
    torch.manual_seed(3)
    y = layer.train()(x)[0]
    params = dict(layer.named_parameters())
    normed = reference.norm(reference.under(params, "norm.norm"), "layernorm", x)
    moved = reference.ema(normed, None, reference.under(params, "move"), bidirectional=True)
    mx = reference.linear(reference.under(params, "mx_proj"), F.silu(moved))
    u = torch.sigmoid(mx[..., :12])
    dropped = torch.tensor([torch.allclose(y[i], ((1 - u) * x)[i]) for i in range(40)])
    scaled = (1 - u) * x + 2 * (kept - (1 - u) * x)  # H is divided by 1 - p
    assert 10 < dropped.sum() < 30
    assert_close(y[~dropped], scaled[~dropped])


def test_a_dropped_path_of_the_feed_forward_network_leaves_the_residual():
    layer = NormalizedFeedForwardNetwork(12, 20)
    drop_paths_(layer, 0.25)
    layer = scatter(layer).double()
    x = randn(60, 9, 12)
    kept = layer.eval()(x)
    torch.manual_seed(3)
    y = layer.train()(x)
    dropped = (y == x).all(dim=2).all(dim=1)
    assert 5 < dropped.sum() < 25
    # The scale of a mask for whole samples is a float32.
    assert_close(y[~dropped], (x + (kept - x) / 0.75)[~dropped], 1e-6)


def test_feature_dropout_drops_whole_channels_and_samples():
    y = PathDropout(FeatureDropout(0.4), 0.25)(torch.ones(60, 9, 12))
    assert (y == y[:, :1]).all()
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.75 / 0.6], rel=1e-3)
    assert 5 < (y == 0).all(dim=(1, 2)).sum() < 25


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_masks_drop_single_values_and_samples(p):
    """Kernels take both masks at once."""
    torch.manual_seed(3)
    dropout = PathDropout(Dropout(p), 0.25)
    x = torch.ones(60, 90, 12, dtype=torch.float64)
    mask = dropout.mask(x)
    assert mask.keep.shape == x.shape
    assert mask.scale == pytest.approx(1 / 0.75 / (1 - p), rel=1e-3)
    samples = mask.keep.any(dim=(1, 2))
    assert 5 < (~samples).sum() < 25
    assert mask.keep[samples].double().mean().item() == pytest.approx(1 - p, abs=0.01)
    for y in (dropout(x), apply_mask(x, mask)):  # as often as the module by itself
        assert y.unique().tolist() == pytest.approx([0, mask.scale], rel=1e-3)
        assert (y != 0).double().mean().item() == pytest.approx(0.75 * (1 - p), abs=0.15)
    assert PathDropout(Dropout(p), 0.25).eval().mask(x) is None
    assert PathDropout(Dropout(0.0), 0.0).mask(x) is None


def test_stochastic_depth_rises_from_layer_to_layer():
    model = build(f"{IMAGENET} --drop-path 0.3 --encoder-layers 4")
    rates = [layer.mega_layer.output_dropout.path_p for layer in model.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert rates == [layer.nffn.output_dropout.path_p for layer in model.blocks]


def test_images_and_classes_of_other_numbers():
    model = build()
    with pytest.raises(ValueError, match="--image-size"):
        model(torch.zeros(1, 3, 16, 12))
    with pytest.raises(ValueError, match="7 classes.*folders of 5"):
        model.load_state_dict(dict(build(classes=7).state_dict()))
