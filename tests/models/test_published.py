"""Weights as published checkpoints name them load, and compute what they have learnt to."""

import pytest
import torch
from helpers import TINY, assert_close, batch_of, build, make_model, sentences

WEIGHT_AND_BIAS = ("weight", "bias")
MEGA_WEIGHTS = ["gamma", "beta"]
MEGA_WEIGHTS += [f"move.{name}" for name in ("delta", "alpha", "beta", "gamma", "omega")]
MEGA_WEIGHTS += [f"{p}.{w}" for p in ("v_proj", "mx_proj", "h_proj") for w in WEIGHT_AND_BIAS]
CROSS_WEIGHTS = [
    f"{p}.{w}" for p in ("k_proj", "v_proj", "q_proj", "h_proj") for w in WEIGHT_AND_BIAS
]
FEED_FORWARD_WEIGHTS = [f"{p}.{w}" for p in ("fc1", "fc2") for w in WEIGHT_AND_BIAS]
NORM_WEIGHTS = {
    "layernorm": ["norm.norm.weight", "norm.norm.bias"],
    "scalenorm": ["norm.norm.scalar"],
    "rmsnorm": ["norm.norm.weight"],
}
BIAS_WEIGHTS = {
    "simple": ["rel_pos_bias.rel_pos_bias"],
    "rotary": ["rel_pos_bias.alpha", "rel_pos_bias.beta"],
}


def published_names(bias, norm):
    """Names of weights in published checkpoints, for two layers on each side."""
    sublayers = {
        "mega_layer": MEGA_WEIGHTS + BIAS_WEIGHTS[bias] + NORM_WEIGHTS[norm],
        "cross_attn": CROSS_WEIGHTS + BIAS_WEIGHTS[bias] + NORM_WEIGHTS[norm],
        "nffn": FEED_FORWARD_WEIGHTS + NORM_WEIGHTS[norm],
    }
    names = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    names.add("decoder.output_projection.weight")
    for side in ("encoder", "decoder"):
        names |= {
            f"{side}.layers.{i}.{sublayer}.{name}"
            for i in range(2)
            for sublayer, weights in sublayers.items()
            for name in weights
            if (side, sublayer) != ("encoder", "cross_attn")
        }
    return names


@pytest.mark.parametrize("bias", BIAS_WEIGHTS)
@pytest.mark.parametrize("norm", NORM_WEIGHTS)
def test_names(bias, norm):
    model = build(TINY["mega"], rel_pos_bias=bias, normalization_type=norm)
    assert set(model.state_dict()) == published_names(bias, norm)


@pytest.mark.parametrize(
    "option, norm", [("normalize_before", "final_norm"), ("normalize_embedding", "embed_norm")]
)
def test_names_of_the_other_norms(option, norm):
    names = set(build(TINY["mega"], **{option: True}).state_dict())
    extra = {f"{side}.{norm}.norm.{w}" for side in ("encoder", "decoder") for w in WEIGHT_AND_BIAS}
    assert names == published_names("simple", "layernorm") | extra


def published(model):
    """The weights of a model as the published code saves them."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for name in list(state):
        if name.endswith("rel_pos_bias.alpha"):
            state[name.replace("alpha", "_float_tensor")] = torch.zeros(1)
    for side in ("encoder", "decoder"):
        if any(name.startswith(f"{side}.") for name in state):
            state[f"{side}.version"] = torch.tensor([3.0])
    return state


@pytest.mark.parametrize("arch", TINY)
@pytest.mark.parametrize("bias", BIAS_WEIGHTS)
def test_bookkeeping_of_published_checkpoints_is_accepted(arch, bias):
    model = make_model(TINY[arch], rel_pos_bias=bias)
    other = build(TINY[arch], rel_pos_bias=bias).double().eval()
    other.load_state_dict(published(model), strict=True)
    inputs = (batch_of(sentences(5)), None) if arch == "mega" else ()
    tokens = batch_of(sentences(6))
    assert torch.equal(other(*inputs, tokens)[0], model(*inputs, tokens)[0])


@torch.no_grad()
def test_published_encoders_count_positions_from_the_edge_of_the_batch():
    """So chunks start at the edge: only padding by whole chunks leaves a sentence as it is."""
    options = dict(encoder_chunk_size=4, rel_pos_bias="rotary")
    ours = make_model(TINY["mega"], **options)
    model = build(TINY["mega"], **options).double().eval()
    model.load_state_dict(published(ours))
    again = build(TINY["mega"], **options).double().eval()
    again.load_state_dict(model.state_dict())

    (sentence,) = sentences(7)
    for encoder in (model.encoder, again.encoder):
        alone = encode(encoder, sentence, 0)
        assert_close(alone, encode(ours.encoder, sentence, 0))
        assert_close(encode(encoder, sentence, 4), alone)
        assert (encode(encoder, sentence, 2) - alone).abs().max() > 1e-3
    assert_close(encode(ours.encoder, sentence, 2), encode(ours.encoder, sentence, 0))


def encode(encoder, sentence, padding):
    """The encoder's output at the words of a sentence that is padded on the left."""
    tokens = torch.cat([torch.full((padding,), 1), sentence]).unsqueeze(0)
    result = encoder(tokens)
    x = result["encoder_out"][0][:, 0]
    return x[~result["encoder_padding_mask"][0][0]] if padding else x


@torch.no_grad()
def test_attention_of_published_models_lines_up_with_the_source():
    model = make_model(TINY["mega"], encoder_chunk_size=4)
    model.load_state_dict(published(model))
    tokens = batch_of(sentences(3, 9), left_pad=True)
    attention = model(tokens, None, batch_of(sentences(5, 5)))[1]["attn"][0]
    assert (attention[0, :, tokens[0] == 1] == 0).all()
    assert_close(attention.sum(-1), torch.ones(2, 5, dtype=torch.float64))


def test_weights_of_our_own_after_published_ones():
    """The marks of a published checkpoint go with its weights."""
    model = make_model(TINY["mega"])
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(published(model))
    assert "encoder.version" in model.state_dict()
    model.load_state_dict(own)
    assert set(model.state_dict()) == set(own)


@pytest.mark.parametrize("arch", TINY)
def test_weights_of_another_model_are_refused(arch):
    other = {"mega": "transformer", "mega_lm": "transformer_lm"}[arch]
    sides = ["decoder", "encoder"] if arch == "mega" else ["decoder"]
    sizes = " ".join(
        f"--{s}-embed-dim 12 --{s}-ffn-embed-dim 8 --{s}-layers 1 --{s}-attention-heads 2"
        for s in sides
    )
    task = "" if arch == "mega" else "--task language_modeling"
    state = build(f"--arch {other} {sizes} {task}").state_dict()
    with pytest.raises(ValueError, match="not a checkpoint of a Mega model"):
        build(TINY[arch]).load_state_dict(state)
