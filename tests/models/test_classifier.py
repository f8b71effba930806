"""The classifier: its architectures, its results, and their independence of other samples."""

import pytest
import torch
from classification import IMAGE, TEXT, TINY, batch, build, logits, make_model, numbers, symbols
from helpers import NORMS, assert_close, parse

from fairseq_mega.models.classification_presets import PAPER
from fairseq_mega.models.sequence_encoder import mean_of_positions

LENGTHS = (3, 12, 7, 1)

# The published architectures, by the specification: layers, D, H = F, Z, C, T, M, norm, classes,
# the classifier's dimensions, documents, vocabulary; parameters with full attention, with chunks,
# and of how many positions.
ARCHITECTURES = {
    "mega_lra_listop": (6, 80, 160, 64, -1, 1024, 2002, "scalenorm", 10, 80, 160, 1, 25),
    "mega_lra_imdb": (4, 128, 256, 64, -1, 1024, 4002, "scalenorm", 2, 128, 256, 1, 169),
    "mega_lra_aan": (6, 128, 256, 64, -1, 1024, 4002, None, 2, 256, 256, 2, 105),
    "mega_lra_cifar10": (8, 160, 320, 96, 1024, 1024, 1024, "batchnorm", 10, 160, 320, 1, None),
    "mega_lra_pf32": (6, 128, 256, 64, 1024, 1024, 1024, "batchnorm", 2, 128, 256, 1, None),
    "mega_lra_pf128": (4, 64, 128, 32, 16384, 4096, 16384, "batchnorm", 2, 64, 128, 1, None),
    "mega_sc_raw": (6, 60, 120, 30, 1000, 1000, 16000, "batchnorm", 10, 60, 120, 1, None),
    "mega_sc_raw_base": (6, 60, 120, 30, 1000, 1000, 16000, "batchnorm", 10, 60, 120, 1, None),
    "mega_sc_raw_big": (6, 72, 144, 36, 1000, 1000, 16000, "batchnorm", 10, 72, 144, 1, None),
}
SIZES = [
    "encoder_layers",
    "encoder_embed_dim",
    "encoder_hidden_dim",
    "z_dim",
    "chunk_size",
    "truncation_length",
    "max_positions",
    "norm_type",
    "sentence_class_num",
]
RECIPES = {
    "mega_lra_listop": "--norm-type layernorm",
    "mega_lra_aan": "--norm-type scalenorm",
    "mega_lra_cifar10": "--encoder-normalize-before",
    "mega_lra_pf32": "--encoder-normalize-before",
    "mega_lra_pf128": "--encoder-normalize-before --norm-type syncbatchnorm",
}
PARAMETERS = {
    "mega_lra_listop": (602_658, 580_170, 128),
    "mega_lra_imdb": (978_836, 947_844, 128),
    "mega_lra_aan": (1_465_246, 1_418_758, 128),
    "mega_lra_cifar10": (2_839_096, 2_824_760, 128),
    "mega_lra_pf32": (1_386_874, 1_376_122, 128),
    "mega_lra_pf128": (381_948, 283_644, 4096),
    "mega_sc_raw_base": (None, 343_134, 1000),
    "mega_sc_raw_big": (None, 475_890, 1000),
}
PAPERS = {
    "mega_listops": "mega_lra_listop",
    "mega_text": "mega_lra_imdb",
    "mega_retrieval": "mega_lra_aan",
    "mega_image": "mega_lra_cifar10",
    "mega_pathfinder": "mega_lra_pf32",
    "mega_pathx": "mega_lra_pf128",
    "mega_speech": "mega_sc_raw_base",
    "mega_speech_big": "mega_sc_raw_big",
}


def task_of(arch):
    words = ARCHITECTURES[arch][-1]
    return "speech_commands" if "_sc_" in arch else "lra-text" if words else "lra-image"


def build_meta(arch, options="", like=None):
    """The model of an architecture, without memory for its weights, for data as ``like`` reads."""
    *_, documents, words = ARCHITECTURES[like or arch]
    with torch.device("meta"):
        return build(f"--task {task_of(like or arch)} -a {arch} {options}", words, documents)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_published_options(arch):
    cfg = parse(f"--task {task_of(arch)} -a {arch}").model
    *sizes, width, out, _, _ = ARCHITECTURES[arch]
    expected = dict(zip(SIZES, sizes))
    expected |= {"n_dim": 16, "activation_fn": "silu", "classifier_activation_fn": "gelu"}
    expected |= {"sen_rep_type": "mp", "act_dropout": 0.0, "apply_bert_init": False}
    speech = "_sc_" in arch
    expected |= dict.fromkeys(("dropout", "attention_dropout"), 0.0 if speech else 0.1)
    expected["attention_activation_fn"] = "laplace" if speech else "relu2"
    expected["encoder_normalize_before"] = speech
    assert {name: cfg[name] for name in expected} == expected
    model = build_meta(arch, RECIPES.get(arch, ""))
    (linear, _), projection = model.classifier[0], model.sentence_projection_layer
    assert (linear.in_features, linear.out_features) == (width, out)
    assert (projection.in_features, projection.out_features) == (out, cfg.sentence_class_num)


def test_the_architecture_without_layers_of_its_own():
    cfg = parse("--task lra-text -a lra").model
    assert (cfg.encoder_layers, cfg.encoder_embed_dim, cfg.encoder_hidden_dim) == (6, 512, 2048)
    assert (cfg.z_dim, cfg.n_dim, cfg.truncation_length, cfg.max_positions) == (128, 2, None, None)
    assert (cfg.activation_fn, cfg.attention_activation_fn) == ("gelu", "relu2")
    assert (cfg.dropout, cfg.attention_dropout, cfg.act_dropout) == (0.1, 0.1, 0.0)
    assert cfg.apply_bert_init and cfg.classifier_out_dim == 2048 and cfg.norm_type is None


@pytest.mark.parametrize("arch", PARAMETERS)
def test_parameters(arch):
    full, chunked, chunk = PARAMETERS[arch]
    recipe = RECIPES.get(arch, "")
    for expected, options in ((full, ""), (chunked, f"--chunk-size {chunk}")):
        if expected is not None:
            model = build_meta(arch, f"{recipe} {options}")
            assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize("arch", PAPER)
def test_the_papers_models_are_the_recipes(arch):
    """Published names with the options of the READMEs' commands are the paper's models."""
    published = PAPERS[arch]
    recipe = RECIPES.get(published, "") + " --attention-dropout 0.0 --act-dropout 0.0"
    pixels = task_of(published) != "lra-text"
    recipe += f" --dropout {'0' if pixels else '0.1'}"
    recipe += f" --attention-activation-fn {'laplace' if pixels else 'softmax'}"
    if "sc_raw" not in published:
        recipe += " --chunk-size -1"
    expected = parse(f"--task {task_of(published)} -a {published} {recipe}").model
    ours = parse(f"--task {task_of(published)} -a {arch}").model
    differing = {name for name in ours if ours[name] != expected[name]}
    assert differing == {"_name"}


def test_options_without_effect():
    """Published commands and checkpoints may have them."""
    options = (
        "--encoder-attention-heads 4 --share-encoder-input-output-embed --encoder-learned-pos "
        "--no-token-positional-embeddings --sent-loss --use-p --encoder-layerdrop 0.1 "
        "--no-scale-embedding --quant-noise-pq 0.1 --quant-noise-pq-block-size 4 "
        "--encoder-projection-length 8 --encoder-projected-attention-heads 2 "
        "--decoder-projected-attention-heads 2 --num-classes 3 --init-token 0 --separator-token 2 "
        "--shorten-method truncate --shorten-data-split-list train --regression-target"
    )
    torch.manual_seed(1)
    plain = build(TEXT)
    torch.manual_seed(1)
    other = build(f"{TEXT} {options}")
    for (name, a), b in zip(plain.state_dict().items(), other.state_dict().values()):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("bert", [False, True])
def test_initial_weights(bert):
    torch.manual_seed(1)
    sizes = "--encoder-embed-dim 96 --classifier-out-dim 160"
    model = build(f"{TEXT} {sizes} {'--apply-bert-init' * bert}", words=300)
    (linear, _), projection = model.classifier[0], model.sentence_projection_layer
    for weight in (linear.weight, projection.weight):
        std = 0.02 if bert else (2 / sum(weight.shape)) ** 0.5
        assert weight.std().item() == pytest.approx(std, rel=0.1)
    assert (linear.bias == 0).all() and projection.bias is None
    table = model.encoder["encoder"].embed_tokens.embed.weight
    assert table.std().item() == pytest.approx(96**-0.5, rel=0.05)
    assert (table[1] != 0).all()  # padding's, as published
    pixels = build(f"{IMAGE} --encoder-embed-dim 4000 --n-dim 1", words=None).encoder["encoder"]
    assert pixels.embed_tokens.weight.std().item() == pytest.approx(1, rel=0.1)
    assert pixels.embed_tokens.bias.std().item() == pytest.approx(0.1, rel=0.1)


@torch.no_grad()
def test_the_vector_of_a_text_is_of_its_first_position_with_cls():
    model = make_model(f"{TEXT} --sen-rep-type cls")
    encoder, outputs, sample = model.encoder["encoder"], [], batch(symbols(*LENGTHS))
    encoder.layers[-1].register_forward_hook(lambda _, inputs, output: outputs.append(output))
    assert torch.equal(encoder(**sample["net_input"]), outputs[0][:, 0])


# --- a sample is all that counts ----------------------------------------------------------------


@pytest.mark.parametrize(
    "chunk, bias, function, pooling",
    [
        (-1, "simple", "softmax", "mp"),
        (5, "rotary", "softmax", "cls"),
        (5, "simple", "relu2", "mp"),
        (-1, "rotary", "relu2", "cls"),
        (5, "rotary", "laplace", "mp"),
        (-1, "simple", "laplace", "cls"),
    ],
)
def test_a_batch_never_changes_a_prediction(chunk, bias, function, pooling):
    options = f"--chunk-size {chunk} --rel-pos-bias {bias} --attention-activation-fn {function}"
    model = make_model(f"{TEXT} {options} --sen-rep-type {pooling}")
    check_batching(model, symbols(*LENGTHS))


@pytest.mark.parametrize("norm_type", NORMS)
def test_nor_does_the_norm(norm_type):
    """No norm, batch norm included, lets a batch change a prediction."""
    options = f"--norm-type {norm_type} --chunk-size 5"
    check_batching(make_model(f"{TEXT} {options}"), symbols(*LENGTHS))
    check_batching(make_model(f"{IMAGE} {options}", words=None), numbers(7, 7, 7), pad=0)


def check_batching(model, rows, pad=1):
    together = logits(model, rows, pad=pad)
    assert together.std() > 1e-3
    for row, ours in zip(rows, together):
        assert_close(ours, logits(model, [row])[0])


@pytest.mark.parametrize(
    "extra, options, words", [(1, TEXT, 20), (5, IMAGE, None), (9, TEXT, 20), (4, IMAGE, None)]
)
def test_padding_to_a_chunk_never_changes_a_prediction(extra, options, words):
    """Lengths may be multiples of the chunk, which the published code needs, or not."""
    model = make_model(f"{options} --chunk-size 5", words=words)
    rows = symbols(12, 3, 5) if words else numbers(12, 3, 5)
    assert_close(logits(model, rows, extra=extra, pad=1), logits(model, rows, pad=1))


def test_half_precision_sums_over_many_positions():
    """The mean of 16,384 values is finite, although half precision cannot hold their sum."""
    x = torch.full((1, 16384, 1), 60000.0, dtype=torch.float16)
    assert mean_of_positions(x, torch.tensor([16384])).item() == 60000.0


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["--chunk-size 8", "--max-positions 16"])
def test_a_bias_table_of_another_size(options):
    """The error at a checkpoint's table names both options that decide its size."""
    state = build(f"--task lra-text -a mega_text {TINY}").state_dict()
    with pytest.raises(ValueError) as error:
        build(f"{TEXT} {options}").load_state_dict(state)
    size = options.split()[1]
    for words in ("32 positions", f"has {size}", "--chunk-size", "--max-positions", "rotary"):
        assert words in str(error.value)
