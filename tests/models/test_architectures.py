"""The presets have the published sizes; options change what they say they change."""

import pickle
import sys

import pytest
import torch
from helpers import TINY, build, parse
from torch import nn

from fairseq_mega.modules.ema import MultiHeadEMA
from fairseq_mega.modules.relative_bias import RotaryRelativePositionalBias

LM = "--task language_modeling "
ADAPTIVE = LM + "--criterion adaptive_loss "
WORDS = 60_008  # enough for the published cutoffs

# docs/method.md, "Presets": layers, D, H, FFN, Z, N, the four dropouts, T, M, chunk.
PUBLISHED = {
    "mega": (6, 512, 1024, 1024, 128, 16, (0.1, 0, 0, 0), 1024, 1024),
    "mega_wmt_en_de": (6, 512, 1024, 1024, 128, 16, (0.1, 0.1, 0.1, 0.1), 1024, 1024),
    "mega_wmt_en_de_big": (6, 1024, 2048, 2048, 256, 16, (0.3, 0.1, 0.1, 0.1), 1024, 1024),
    "mega_lm": (6, 512, 1664, 1664, 128, 16, (0.1, 0, 0, 0), 2048, 1024),
    "mega_lm_big": (16, 1024, 2048, 2048, 256, 16, (0.1, 0, 0, 0), 2048, 1024),
    "mega_lm_adaptive_base": (16, 768, 1536, 1536, 128, 16, (0.3, 0.1, 0.1, 0.1), 2048, 1024),
    "mega_lm_adaptive_big": (16, 1024, 2048, 2048, 256, 16, (0.3, 0.1, 0.1, 0.1), 2048, 1024),
    "mega_lm_wiki103": (16, 1024, 2048, 2048, 256, 16, (0.3, 0.1, 0.1, 0.1), 2048, 1024),
    "mega_lm_enwik8_base": (12, 512, 1024, 1024, 128, 16, (0.1, 0, 0, 0), 2048, 1024),
    "mega_lm_enwik8_large": (24, 1024, 1536, 1536, 128, 16, (0.2, 0.1, 0.1, 0), 2048, 1024),
}


def build_meta(options, words):
    """The model of these options, without memory for its weights."""
    with torch.device("meta"):
        return build(options, words)


def sizes(part):
    """The numbers of PUBLISHED, read off an encoder or decoder."""
    layer, attention, feed_forward = part.layers[0], part.layers[0].mega_layer, part.layers[0].nffn
    assert attention.dropout.p == feed_forward.dropout.p == part.dropout.p
    return (
        len(part.layers),
        part.embed_tokens.embedding_dim,
        attention.v_proj.out_features,
        feed_forward.fc1.out_features,
        attention.gamma.size(1),
        attention.move.ndim,
        (
            layer.mega_layer.dropout.p,
            attention.attention_dropout.p,
            attention.hidden_dropout.p,
            feed_forward.hidden_dropout.p,
        ),
        attention.move.truncation,
        attention.rel_pos_bias.max_positions,
    )


@pytest.mark.parametrize("arch", PUBLISHED)
def test_published_sizes(arch):
    task = "" if not arch.startswith("mega_lm") else ADAPTIVE if "ada" in arch else LM
    task = ADAPTIVE if arch == "mega_lm_wiki103" else task
    model = build_meta(f"{task} --arch {arch}", WORDS)
    parts = [model.decoder] if task else [model.encoder, model.decoder]
    for part in parts:
        assert sizes(part) == PUBLISHED[arch]
        layer = part.layers[0].mega_layer
        assert layer.chunk_size == -1 and not layer.prenorm and part.final_norm is None
        assert layer.move.longest_memory is None
        assert layer.attention_activation == "softmax" and layer.activation is nn.functional.silu
        assert isinstance(layer.norm.norm, nn.LayerNorm)
    assert all((layer.cross_attn is None) == bool(task) for layer in model.decoder.layers)
    if task == ADAPTIVE:
        softmax, words = model.decoder.adaptive_softmax, model.decoder.embed_tokens
        assert words.cutoff == softmax.cutoff == [20000, 60000, WORDS]
        assert [tail[1].p for tail in softmax.tail] == [0.2, 0.2]


def test_decoder_sizes():
    """Decoder sizes are the encoder's or given separately."""
    model = build(TINY["mega"] + " --encoder-chunk-size 5 --encoder-layers 3")
    assert sizes(model.decoder) == sizes(model.encoder)
    assert model.decoder.layers[0].mega_layer.chunk_size == 5
    options = "--decoder-layers 1 --decoder-hidden-dim 6 --decoder-ffn-embed-dim 7 "
    options += "--decoder-z-dim 2 --decoder-n-dim 4 --decoder-chunk-size 9"
    model = build(f"{TINY['mega']} {options}")
    assert sizes(model.decoder)[:6] == (1, 12, 6, 7, 2, 4)
    assert sizes(model.encoder)[:6] == (2, 12, 16, 20, 4, 3)
    assert model.decoder.layers[0].mega_layer.chunk_size == 9


@pytest.mark.parametrize("affine", [True, False])
def test_final_norm_of_the_language_model(affine):
    flag = "" if affine else "--no-affine-final-norm"
    model = build(f"{TINY['mega_lm']} --normalize-before {flag}")
    names = {name for name, _ in model.named_parameters() if "final_norm" in name}
    expected = {"decoder.final_norm.norm.weight", "decoder.final_norm.norm.bias"}
    assert names == (expected if affine else set())
    assert model.decoder.final_norm is not None


@pytest.mark.parametrize("init", ["normal", "xavier"])
def test_weight_init(init):
    torch.manual_seed(1)
    sizes = "--encoder-embed-dim 96 --encoder-hidden-dim 128 --encoder-ffn-embed-dim 160"
    model = build(f"{TINY['mega']} {sizes} --encoder-z-dim 32 --weight-init {init}")
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        for name, linear in layer.named_modules():
            if not isinstance(linear, nn.Linear):
                continue
            weight = linear.weight.detach()
            std, largest = weight.std().item(), weight.abs().max().item()
            xavier = (2 / sum(weight.shape)) ** 0.5
            assert std == pytest.approx(xavier if init == "xavier" else 0.02, rel=0.05), name
            # Uniform weights end at sqrt(3) deviations; so many normal ones go beyond 3.
            assert largest < 1.8 * std if init == "xavier" else largest > 3 * std, name
            assert (linear.bias == 0).all()
    for table in (model.encoder.embed_tokens.weight, model.decoder.output_projection.weight):
        rows = table.detach()[4:]
        assert rows.std().item() == pytest.approx(96**-0.5, rel=0.1)
    assert (model.encoder.embed_tokens.weight[1] == 0).all()


@pytest.mark.parametrize("arch", TINY)
@pytest.mark.parametrize("given, longest", [("", 4096), ("--ema-longest 64", 64)])
def test_ema_init(arch, given, longest):
    """The option changes the EMAs of encoder and decoder and nothing else."""
    models = []
    for options in ("", f"--ema-init spread {given}"):
        torch.manual_seed(1)
        models.append(build(f"{TINY[arch]} {options}"))
    normal, spread = (model.state_dict() for model in models)
    for name, value in normal.items():
        assert torch.equal(value, spread[name]) != name.endswith("move.delta"), name
    for module in models[1].modules():
        if isinstance(module, MultiHeadEMA):
            p, a = torch.sigmoid(module.delta), torch.sigmoid(module.alpha)
            assert 0.5 * longest < 1 / (p * a).min() <= 1.0001 * longest


def test_the_preset_for_long_texts():
    """Chunks, and memories beyond them; published initial values can be asked for."""
    decoder = build_meta(f"{LM} --arch mega_lm_long", 20).decoder
    layer = decoder.layers[0].mega_layer
    assert (layer.chunk_size, layer.move.truncation, layer.prenorm) == (512, None, True)
    assert layer.move.longest_memory == 4096
    assert isinstance(layer.rel_pos_bias, RotaryRelativePositionalBias)
    decoder = build_meta(f"{LM} --arch mega_lm_long --ema-init normal", 20).decoder
    assert decoder.layers[0].mega_layer.move.longest_memory is None


@pytest.mark.parametrize(
    "bias, chunk, source, target, alone",
    [
        ("simple", -1, 20, 24, 24),
        ("simple", 4, 20, 24, sys.maxsize),  # cross attention is never chunked
        ("rotary", -1, sys.maxsize, sys.maxsize, sys.maxsize),
        ("rotary", 4, sys.maxsize, sys.maxsize, sys.maxsize),
    ],
)
def test_max_positions(bias, chunk, source, target, alone):
    """Only the tables of the ``simple`` bias limit the length; what is promised can be read."""
    options = f"--rel-pos-bias {bias} --max-target-positions 24"
    sides = f"--encoder-chunk-size {chunk} --max-source-positions 20"
    model = build(f"{TINY['mega']} {options} {sides}")
    assert model.max_positions() == (source, target)
    model(tokens(min(source, 50)), None, tokens(min(target, 50)))
    if bias == "simple":
        with pytest.raises(ValueError, match="--max-target-positions"):
            model(tokens(3), None, tokens(target + 1))
    if bias == "simple" and chunk < 0:
        with pytest.raises(ValueError, match="--max-source-positions"):
            model(tokens(source + 1), None, tokens(3))

    model = build(f"{TINY['mega_lm']} {options} --decoder-chunk-size {chunk}")
    assert model.max_positions() == alone
    model(tokens(min(alone, 50)))


def tokens(length):
    return torch.full((1, length), 5)


@pytest.mark.parametrize("arch", ["mega", "mega_lm_big"])
def test_a_model_can_be_pickled(arch):
    base = "mega_lm" if arch.startswith("mega_lm") else "mega"
    model = build(TINY[base].replace(f"--arch {base} ", f"--arch {arch} "))
    copied = pickle.loads(pickle.dumps(model))
    assert type(copied) is type(model) and copied.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    "arch, flag",
    [
        ("mega_iwslt_de_en", "normalize-before"),
        ("mega_lm_adaptive_base", "adaptive-input"),
        ("mega_image --task lra-image", "encoder-normalize-before"),
    ],
)
def test_a_flag_that_a_preset_has_set_stays_set(arch, flag):
    """fairseq's own parser would unset it."""
    task = "--task language_modeling" if "_lm_" in arch else ""
    for given in ("", f"--{flag}"):
        assert parse(f"--arch {arch} {task} {given}").model[flag.replace("-", "_")] is True
