"""Options that cannot work end before training, in one error with option, value and remedy."""

import math
from dataclasses import fields

import pytest
import torch
from all_models import MODELS, build_kind
from helpers import TINY, build

from fairseq_mega.models import config
from fairseq_mega.models.options import Options, as_flag

ADAPTIVE = "--criterion adaptive_loss --adaptive-softmax-cutoff 8"
INPUT = "--adaptive-input --adaptive-input-cutoff"
SHARED = "--share-decoder-input-output-embed"
TIED = f"--tie-adaptive-weights {ADAPTIVE} {INPUT}"

# The kind of model, options, and what the error says.
CASES = [
    # each kind of model has the checks of single values, and the parser those of choices
    ("mega", "--encoder-n-dim 0", "--encoder-n-dim is 0", "positive"),
    ("mega_lm", "--peak-tflops 0", "--peak-tflops is 0.0", "positive"),
    ("mega_lm", "--decoder-chunk-size -5", "--decoder-chunk-size is -5", "positive, or -1"),
    ("mega_lm", "--decoder-chunks-before -1", "--decoder-chunks-before is -1", "must be 0"),
    ("masked_lm", "--max-positions 0", "--max-positions is 0", "positive"),
    ("masked_lm", "--pooler-dropout -0.1", "--pooler-dropout is -0.1", "at least 0"),
    ("text", "--z-dim 0", "--z-dim is 0", "positive"),
    ("text", "--act-dropout 1.5", "--act-dropout is 1.5", "below 1"),
    ("imagenet", "--drop-path 1.0", "--drop-path is 1.0", "below 1"),
    ("mega", "--ema-init spread --ema-longest 1", "--ema-longest is 1", "at least 2"),
    ("mega", "--activation-fn swoosh", "--activation-fn: invalid", "swoosh", "silu"),
    ("mega", "--encoder-layers many", "--encoder-layers: ", "many", "int"),
    ("text", "--norm-type foo", "--norm-type: ", "foo", "scalenorm"),
    # options and others
    ("mega", "--rel-pos-bias rotary --encoder-z-dim 5", "--encoder-z-dim is 5", "even", "simple"),
    ("mega", "--rel-pos-bias rotary --decoder-z-dim 5", "--decoder-z-dim is 5", "even"),
    ("text", "--rel-pos-bias rotary --z-dim 5", "--z-dim is 5", "even"),
    (
        "mega_lm",
        "--decoder-chunks-before 1",
        "--decoder-chunks-before is 1, but --decoder-chunk-size is -1",
        "give the size of a chunk",
    ),
    (
        "text",
        "--chunk-size -1 --chunks-before 2",
        "--chunks-before is 2, but --chunk-size is -1",
        "leave --chunks-before out",
    ),
    (
        "mega_lm",
        "--decoder-chunk-size 64 --decoder-chunks-before 1000000000",
        "--decoder-chunks-before is 1000000000",
        "rotary",
    ),
    ("mega_lm", "--ema-longest 9", "--ema-longest is 9", "--ema-init is normal", "give --ema-init"),
    (
        "mega",
        "--compile-layers --checkpoint-activations",
        "--compile-layers",
        "--checkpoint-activations is set",
    ),
    (
        "masked_lm",
        "--normalize-embedding --normalize-before",
        "--normalize-embedding",
        "--normalize-before is set",
        "leave one of the two out",
    ),
    (
        "image",
        "--normalize-embedding",
        "--normalize-embedding",
        "--encoder-normalize-before is set, by itself or by the architecture",
    ),
    ("masked_lm", "--no-final-norm", "--no-final-norm", "--normalize-before", "leave it out"),
    ("mega", "--decoder-embed-dim 8", "--decoder-embed-dim (8)", "--encoder-embed-dim (12)"),
    (
        "mega",
        "--share-all-embeddings --decoder-input-dim 8",
        "--share-all-embeddings",
        "--encoder-embed-dim (12)",
        "--decoder-input-dim (8)",
    ),
    (
        "mega",
        "--share-all-embeddings --encoder-embed-path a --decoder-embed-path b",
        "--share-all-embeddings",
        "--decoder-embed-path is b",
        "--encoder-embed-path alone",
    ),
    (
        "mega_lm",
        f"{SHARED} --decoder-input-dim 8",
        SHARED,
        "--decoder-input-dim (8)",
        "--decoder-embed-dim (12)",
    ),
    ("mega", f"{SHARED} {ADAPTIVE}", SHARED, "--adaptive-softmax-cutoff is 8", "leave one"),
    ("mega_lm", f"{SHARED} {INPUT} 8", SHARED, "--adaptive-input is set", "--tie-adaptive-weights"),
    ("mega_lm", f"{INPUT} 8 --decoder-embed-path a", "--adaptive-input", "embed-path is a"),
    ("mega_lm", "--adaptive-input", "--adaptive-input", "give --adaptive-input-cutoff"),
    *(
        (kind, f"--tie-adaptive-weights {ADAPTIVE}", "--tie-adaptive-weights", "leave it out")
        for kind in TINY
    ),
    ("mega_lm", f"{TIED} 9", "--tie-adaptive-weights", "-softmax-cutoff (8)", "-cutoff (9)"),
    ("mega_lm", f"--tie-adaptive-weights {INPUT} 8", "-softmax-cutoff (None)", "-cutoff (8)"),
    ("mega_lm", f"{TIED} 8 --adaptive-input-factor 2", "-softmax-factor (4.0)", "-factor (2.0)"),
    ("mega_lm", f"{TIED} 8 --decoder-input-dim 6", "input-dim (6)", "embed-dim (12)"),
    *(
        (
            kind,
            f"--adaptive-softmax-cutoff 8 --criterion {criterion}",
            "--adaptive-softmax-cutoff is 8",
            f"--criterion {criterion}",
            "use --criterion adaptive_loss",
        )
        for kind, criterion in zip(TINY, ("cross_entropy", "label_smoothed_cross_entropy"))
    ),
    ("mega_lm", "--criterion adaptive_loss", "give --adaptive-softmax-cutoff"),
    # options and the data
    ("mega", f"{ADAPTIVE},7", "--adaptive-softmax-cutoff is 8,7", "rising"),
    ("mega", f"{ADAPTIVE},x()", "--adaptive-softmax-cutoff is 8,x()", "rising"),
    ("mega", f"{ADAPTIVE} --adaptive-softmax-factor 0", "-softmax-factor is 0.0", "(12)"),
    *(
        ("mega_lm", f"{INPUT} {cutoff}", f"-cutoff is {cutoff},", "20 words")
        for cutoff in ("1", "8,9", "19", "30")
    ),
    *(
        ("mega_lm", f"{INPUT} 8,14 --adaptive-input-factor={factor}", f"-factor is {factor}")
        for factor in (-1.0, 4.0, math.nan, 1e200)
    ),
    ("text", "--layer-type transformer", "--layer-type is transformer", "leave it out"),
    ("text", "--input-type image", "--input-type is image", "symbols", "leave it out"),
    ("image", "--sen-rep-type cls", "--sen-rep-type is cls", "use mp"),
    *(
        ("text", f"--classifier-in-dim {size}", f"--classifier-in-dim is {size}", "leave it out")
        for size in (7, 1000)
    ),
    ("text", "-a lra --sen-rep-type mp", "--norm-type is not given", "scalenorm"),
    ("text", "-a mega_lra_aan", "--norm-type is not given", "scalenorm"),
    ("text", "-a lra --norm-type layernorm", "--sen-rep-type is not given", "mp, cls"),
    ("imagenet", "--patch-size 5", "--image-size is 12", "--patch-size (5)"),
]


@pytest.mark.parametrize("kind, options, says", [(kind, o, s) for kind, o, *s in CASES])
def test_bad_options(kind, options, says, capsys):
    """Errors come from fairseq's option parsing, or from building the model."""
    with pytest.raises((ValueError, SystemExit)) as error:
        build_kind(kind, options)
    message = str(error.value)
    if error.type is SystemExit:
        message = capsys.readouterr().err.strip().splitlines()[-1]
    for words in says:
        assert words in message


SIZES = ("er_layers", "_dim", "_size", "_num", "max_positions")
CONFIGS = ("MegaConfig", "MegaLanguageModelConfig", "MaskedLMConfig", "ImageNetConfig")


@pytest.mark.parametrize("name", [*CONFIGS, "ClassifierConfig"])
def test_every_size_and_probability_has_a_range(name):
    declared = getattr(config, name)
    usual = dict.fromkeys(each.name for each in fields(declared))
    checked = 0
    for option in set(usual) - {"quant_noise_pq_block_size"}:  # which has no effect
        bad = ()
        if option.endswith("dropout") and option != "feature_dropout" or option == "drop_path":
            bad = (-0.1, 1.0, math.nan)
        elif option.endswith(SIZES) and option != "classifier_in_dim":
            bad = (10**9,) if option.endswith("ffn_embed_dim") else (0, -2)
        for value in bad:
            with pytest.raises(ValueError, match=f"^{as_flag(option)} is {value}, but must be"):
                Options({**usual, option: value}, declared)
            checked += 1
    assert checked > 20


POSITIONS = ("max_source_positions", "max_target_positions")


@pytest.mark.parametrize("value", [0, -1, 10**9])
@pytest.mark.parametrize("kind, names", [("mega", POSITIONS), ("mega_lm", POSITIONS[1:])])
def test_tables_of_the_simple_bias_have_a_range(kind, names, value):
    for name in names:
        with pytest.raises(ValueError, match=f"^{as_flag(name)} is {value}, .* rotary"):
            build_kind(kind, **{name: value})
        build_kind(kind, rel_pos_bias="rotary", **{name: value})


@pytest.mark.parametrize("kind, names", [("mega", POSITIONS), ("mega_lm", POSITIONS[1:])])
def test_tables_of_both_ends_of_the_range_are_built(kind, names):
    for name in names:
        for value in (1, 10_000_000):
            with torch.device("meta"):
                build_kind(kind, **{name: value})


@pytest.mark.parametrize("kind", MODELS)
def test_chunks_without_end_are_refused(kind):
    """The chunk size is the size of a table, too."""
    side = "decoder_" if kind == "mega_lm" else "encoder_"
    name = "chunk_size" if kind in ("text", "image") else f"{side}chunk_size"
    with pytest.raises(ValueError, match=f"^{as_flag(name)} is 1000000000, .* rotary"):
        build_kind(kind, **{name: 10**9})


def test_a_classifier_of_full_attention_needs_the_longest_sequence():
    with pytest.raises(ValueError, match="--max-positions is not given.* rotary"):
        build_kind("text", max_positions=None)
    build_kind("text", max_positions=None, rel_pos_bias="rotary")
    build_kind("text", max_positions=None, chunk_size=4)


def test_different_dictionaries():
    with pytest.raises(ValueError) as error:
        build(f"{TINY['mega']} --share-all-embeddings", words=20, target_words=30)
    for words in ("--share-all-embeddings", "20 words", "30 words", "--joined-dictionary"):
        assert words in str(error.value)
