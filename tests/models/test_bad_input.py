"""What cannot work ends before training, in one error that names option, value and remedy."""

import pytest
from helpers import TINY, build

ADAPTIVE = " --criterion adaptive_loss --adaptive-softmax-cutoff 8"
INPUT = " --adaptive-input --adaptive-input-cutoff"

# Architecture, options, and what the error says.
CASES = [
    ("mega", "--encoder-chunk-size 0", "--encoder-chunk-size is 0", "positive, or -1"),
    ("mega", "--encoder-chunk-size -2", "--encoder-chunk-size is -2", "positive, or -1"),
    ("mega", "--decoder-chunk-size 0", "--decoder-chunk-size is 0", "positive, or -1"),
    ("mega_lm", "--decoder-chunk-size -5", "--decoder-chunk-size is -5", "positive, or -1"),
    ("mega", "--rel-pos-bias rotary --encoder-z-dim 5", "--encoder-z-dim is 5", "even", "simple"),
    ("mega", "--rel-pos-bias rotary --decoder-z-dim 5", "--decoder-z-dim is 5", "even", "simple"),
    ("mega_lm", "--rel-pos-bias rotary --decoder-z-dim 7", "--decoder-z-dim is 7", "even"),
    ("mega", "--encoder-embed-dim 0", "--encoder-embed-dim is 0", "positive"),
    ("mega", "--encoder-hidden-dim -4", "--encoder-hidden-dim is -4", "positive"),
    ("mega", "--encoder-z-dim 0", "--encoder-z-dim is 0", "positive"),
    ("mega", "--encoder-n-dim 0", "--encoder-n-dim is 0", "positive"),
    ("mega", "--encoder-layers 0", "--encoder-layers is 0", "positive"),
    ("mega", "--decoder-layers -1", "--decoder-layers is -1", "positive"),
    ("mega", "--decoder-n-dim 0", "--decoder-n-dim is 0", "positive"),
    ("mega_lm", "--decoder-input-dim 0", "--decoder-input-dim is 0", "positive"),
    ("mega_lm", "--decoder-layers 0", "--decoder-layers is 0", "positive"),
    ("mega_lm", "--dropout 1.5", "--dropout is 1.5", "below 1"),
    ("mega", "--decoder-embed-dim 8", "--decoder-embed-dim (8)", "--encoder-embed-dim (12)"),
    ("mega", "--activation-fn swoosh", "--activation-fn: invalid", "swoosh", "silu"),
    ("mega", "--attention-activation-fn foo", "--attention-activation-fn: ", "foo", "laplace"),
    ("mega_lm", "--normalization-type foo", "--normalization-type: ", "foo", "scalenorm"),
    ("mega", "--rel-pos-bias alibi", "--rel-pos-bias: ", "alibi", "rotary"),
    ("mega", "--weight-init foo", "--weight-init: ", "foo", "xavier"),
    ("mega", "--ema-init wide", "--ema-init: ", "wide", "spread"),
    ("mega", "--ema-init spread --ema-longest 1", "--ema-longest is 1", "at least 2"),
    ("mega_lm", "--ema-init spread --ema-longest long", "--ema-longest: ", "long", "int"),
    ("mega_lm", "--ema-longest 9", "--ema-longest is 9", "--ema-init is normal", "give --ema-init"),
    ("mega", "--encoder-layers many", "--encoder-layers: ", "many", "int"),
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
        "--share-decoder-input-output-embed --decoder-input-dim 8",
        "--share-decoder-input-output-embed",
        "--decoder-input-dim (8)",
        "--decoder-embed-dim (12)",
    ),
    (
        "mega",
        f"--share-decoder-input-output-embed {ADAPTIVE}",
        "--share-decoder-input-output-embed",
        "--adaptive-softmax-cutoff is 8",
        "leave it out",
    ),
    (
        "mega_lm",
        f"--share-decoder-input-output-embed {INPUT} 8",
        "--share-decoder-input-output-embed",
        "--adaptive-input",
        "--tie-adaptive-weights",
    ),
    (
        "mega_lm",
        f"--tie-adaptive-weights {ADAPTIVE}",
        "--tie-adaptive-weights",
        "--adaptive-input, or leave it out",
    ),
    ("mega", f"--tie-adaptive-weights {ADAPTIVE}", "--tie-adaptive-weights", "leave it out"),
    (
        "mega_lm",
        f"--tie-adaptive-weights {ADAPTIVE} {INPUT} 9",
        "--tie-adaptive-weights",
        "--adaptive-softmax-cutoff (8)",
        "--adaptive-input-cutoff (9)",
    ),
    (
        "mega_lm",
        f"--tie-adaptive-weights {INPUT} 8",
        "--tie-adaptive-weights",
        "--adaptive-softmax-cutoff (None)",
        "--adaptive-input-cutoff (8)",
    ),
    (
        "mega_lm",
        f"--tie-adaptive-weights {ADAPTIVE} {INPUT} 8 --adaptive-input-factor 2",
        "--tie-adaptive-weights",
        "--adaptive-softmax-factor (4.0)",
        "--adaptive-input-factor (2.0)",
    ),
    (
        "mega_lm",
        f"--tie-adaptive-weights {ADAPTIVE} {INPUT} 8 --decoder-input-dim 6",
        "--tie-adaptive-weights",
        "--decoder-input-dim (6)",
        "--decoder-embed-dim (12)",
    ),
    ("mega_lm", "--adaptive-input", "--adaptive-input", "give --adaptive-input-cutoff"),
    ("mega_lm", f"{INPUT} 30", "--adaptive-input-cutoff is 30", "at most", "20 words"),
    (
        "mega",
        "--criterion adaptive_loss --adaptive-softmax-cutoff 9,8",
        "--adaptive-softmax-cutoff is 9,8",
        "rising",
    ),
    (
        "mega",
        "--criterion adaptive_loss --adaptive-softmax-cutoff open('x')",
        "--adaptive-softmax-cutoff is open(x)",
        "rising numbers",
    ),
    (
        "mega",
        "--normalize-embedding --normalize-before",
        "--normalize-embedding",
        "--normalize-before is set",
        "leave one of the two out",
    ),
    *(
        (
            arch,
            f"--adaptive-softmax-cutoff 8 --criterion {criterion}",
            "--adaptive-softmax-cutoff is 8",
            f"--criterion {criterion}",
            "use --criterion adaptive_loss",
        )
        for arch in TINY
        for criterion in ("cross_entropy", "label_smoothed_cross_entropy")
    ),
    (
        "mega_lm",
        "--criterion adaptive_loss",
        "--criterion adaptive_loss",
        "give --adaptive-softmax-cutoff",
    ),
]


@pytest.mark.parametrize("arch, options, says", [(a, o, s) for a, o, *s in CASES])
def test_bad_options(arch, options, says, capsys):
    """Through fairseq's option parsing, or where the model is built."""
    with pytest.raises((ValueError, SystemExit)) as error:
        build(f"{TINY[arch]} {options}")
    message = str(error.value)
    if error.type is SystemExit:
        message = capsys.readouterr().err.strip().splitlines()[-1]
    for words in says:
        assert words in message


BANDS = {"adaptive_input": True, "adaptive_input_cutoff": "8,14"}
SOFTMAX = {"criterion_name": "adaptive_loss", "adaptive_softmax_cutoff": "8"}
HUGE = (
    *("encoder_layers", "encoder_embed_dim", "encoder_hidden_dim", "encoder_n_dim"),
    *("encoder_ffn_embed_dim", "encoder_chunk_size", "decoder_input_dim"),
    *("max_source_positions", "max_target_positions"),
)


@pytest.mark.parametrize(
    "arch, options, says",
    [
        *(
            ("mega_lm", {**BANDS, "adaptive_input_cutoff": cutoff}, [f"-cutoff is {cutoff},"])
            for cutoff in ("1", "8,9", "19", "")
        ),
        *(
            ("mega_lm", {**BANDS, "adaptive_input_factor": factor}, [f"-input-factor is {factor}"])
            for factor in (0.0, -1.0, 4.0, float("nan"), 1e200)
        ),
        ("mega", {**SOFTMAX, "adaptive_softmax_factor": 0.0}, ["-softmax-factor is 0.0", "(12)"]),
        ("mega", {"max_source_positions": 0}, ["--max-source-positions is 0", "rotary"]),
        ("mega", {"max_target_positions": -1}, ["--max-target-positions is -1", "rotary"]),
        ("mega_lm", {"max_target_positions": 0}, ["--max-target-positions is 0", "rotary"]),
        *(("mega", {name: 10**9}, ["--" + name.replace("_", "-"), "at most"]) for name in HUGE),
    ],
    ids=str,
)
def test_odd_values(arch, options, says):
    with pytest.raises(ValueError) as error:
        build(TINY[arch], **options)
    for words in says:
        assert words in str(error.value)


def test_different_dictionaries():
    with pytest.raises(ValueError) as error:
        build(f"{TINY['mega']} --share-all-embeddings", words=20, target_words=30)
    for words in ("--share-all-embeddings", "20 words", "30 words", "--joined-dictionary"):
        assert words in str(error.value)
