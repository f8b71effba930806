"""The initial values of --weight-init residual have their purpose, compared with xavier's."""

import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, build, sentences

SIZES = (
    "--encoder-layers 3 --encoder-embed-dim 64 --encoder-hidden-dim 128 "
    "--encoder-ffn-embed-dim 128 --encoder-z-dim 32 --encoder-n-dim 4 "
    "--normalize-before --rel-pos-bias rotary"
)


def made(init, options=SIZES):
    torch.manual_seed(1)
    return build(f"{TINY['mega']} {options} --weight-init {init}").eval()


@torch.no_grad()
def kept_of_embeddings(model):
    """The cosine of the encoder's output and the token's own embedding, its mean."""
    source = torch.stack(sentences(12, 12, 12))
    top = model.encoder(source)["encoder_out"][0].transpose(0, 1)
    return F.cosine_similarity(top, model.encoder.embed_tokens(source), dim=-1).mean().item()


@torch.no_grad()
def part_of_source(model):
    """The part of the first cross attention that changes with the source, relative to its input."""
    torch.manual_seed(2)
    x, (one, other) = torch.randn(2, 10, 64), torch.randn(2, 2, 12, 64)
    cross = model.decoder.layers[0].cross_attn
    return ((cross(x, one)[0] - cross(x, other)[0]).norm() / x.norm()).item()


def test_embeddings_reach_the_top_of_the_encoder():
    assert kept_of_embeddings(made("residual")) > 0.5 > 2 * kept_of_embeddings(made("xavier"))


def test_cross_attention_lets_the_source_through():
    assert part_of_source(made("residual")) > 5 * part_of_source(made("xavier"))


def test_update_gates_begin_almost_closed():
    for layer in made("residual").decoder.layers:
        for bias in (layer.mega_layer.mx_proj.bias[:64], layer.cross_attn.q_proj.bias[:64]):
            assert 0.05 < bias.sigmoid().mean() < 0.3


@torch.no_grad()
@pytest.mark.parametrize("zdim", [16, 32, 128])
def test_cross_attention_prefers_the_same_position(zdim):
    model = made("residual", SIZES.replace("z-dim 32", f"z-dim {zdim}"))
    bias = model.decoder.layers[0].cross_attn.rel_pos_bias(12, 12)
    assert (bias.argmax(1) == torch.arange(12)).all()
    assert bias.diagonal().tolist() == pytest.approx([4.0] * 12, abs=1e-4)
    assert bias[0, 5] < 3.0 and (bias[0, :9].diff() < 0).all()
    own = model.decoder.layers[0].mega_layer.rel_pos_bias(12, 12)
    assert own.abs().max() < 0.1


@pytest.mark.parametrize("options", ["--encoder-z-dim 2", "--rel-pos-bias simple"])
def test_few_dimensions_and_a_simple_bias_will_do(options):
    model = made("residual", f"{SIZES} {options}")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_other_values_are_those_of_xavier():
    residual, xavier = made("residual").encoder.state_dict(), made("xavier").encoder.state_dict()
    assert list(residual) == list(xavier)
    for name, before in xavier.items():
        if name.endswith("fc2.weight"):
            assert torch.equal(residual[name], 0.5 * before)
        elif not name.endswith(("mx_proj.bias", "omega")):
            assert torch.equal(residual[name], before), name
