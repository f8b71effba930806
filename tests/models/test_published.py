"""Weights with the published names load, and compute the published results."""

import pytest
import torch
from helpers import BIASES, TINY, assert_close, batch_of, build, make_model, sentences


def test_names_that_the_checkpoints_in_parity_do_not_have():
    names = build(TINY["mega"], normalization_type="rmsnorm", normalize_embedding=True).state_dict()
    for side in ("encoder", "decoder"):
        norms = {"embed_norm", "layers.0.mega_layer.norm", "layers.0.nffn.norm"}
        assert {f"{side}.{norm}.norm.weight" for norm in norms} <= set(names)
    assert not any(name.endswith("norm.bias") for name in names)


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


@pytest.mark.parametrize("arch, bias", zip(TINY, BIASES))
def test_bookkeeping_of_published_checkpoints_is_accepted(arch, bias):
    model = make_model(TINY[arch], rel_pos_bias=bias)
    other = build(TINY[arch], rel_pos_bias=bias).double().eval()
    other.load_state_dict(published(model), strict=True)
    inputs = (batch_of(sentences(5)), None) if arch == "mega" else ()
    tokens = batch_of(sentences(6))
    assert torch.equal(other(*inputs, tokens)[0], model(*inputs, tokens)[0])


@torch.no_grad()
def test_published_encoders_count_positions_from_the_edge_of_the_batch():
    """Chunks start at the edge: only padding by complete chunks leaves a sentence as it is."""
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
