"""Embeddings and output layers: shared where the options say so, adaptive, or read from a file."""

import copy
import os
from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions.adaptive_loss import AdaptiveLoss
from helpers import TINY, assert_close, batch_of, build, make_dictionary, make_model, sentences

ADAPTIVE = " --criterion adaptive_loss --adaptive-softmax-cutoff 8,14 --adaptive-softmax-factor 2"
ADAPTIVE_INPUT = ADAPTIVE
ADAPTIVE_INPUT += " --adaptive-input --adaptive-input-cutoff 8,14 --adaptive-input-factor 2"
TIED = " --tie-adaptive-weights --tie-adaptive-proj"


def embeddings(model):
    return model.encoder.embed_tokens.weight, model.decoder.embed_tokens.weight


def output(model):
    return model.decoder.output_projection.weight


def shares(a, b):
    return a.data_ptr() == b.data_ptr()


def check_loads_back(options, inputs, shared):
    """Checks that a second model with these weights has the same scores, and still shares them."""
    model, other = make_model(options), build(options).double().eval()
    other.load_state_dict(model.state_dict())
    for each in (model, other):
        assert all(shares(a, b) for a, b in shared(each))
    assert torch.equal(other(*inputs)[0], model(*inputs)[0])


def pair():
    return batch_of(sentences(5, 3)), None, batch_of(sentences(4, 6))


def test_separate_dictionaries():
    model = build(TINY["mega"], words=20, target_words=30)
    assert [len(table) for table in (*embeddings(model), output(model))] == [20, 30, 30]
    assert model(torch.full((1, 3), 19), None, torch.full((1, 2), 29))[0].shape == (1, 2, 30)


@pytest.mark.parametrize("arch", TINY)
def test_share_decoder_input_output_embed(arch):
    options = f"{TINY[arch]} --share-decoder-input-output-embed"
    inputs = pair() if arch == "mega" else pair()[:1]
    check_loads_back(options, inputs, lambda m: [(m.decoder.embed_tokens.weight, output(m))])
    if arch == "mega":
        assert not shares(*embeddings(build(options)))


@pytest.mark.parametrize("adaptive", ["", ADAPTIVE])
def test_share_all_embeddings(adaptive):
    def shared(model):
        tables = embeddings(model)
        return [tables] if adaptive else [tables, (output(model), tables[0])]

    check_loads_back(f"{TINY['mega']} --share-all-embeddings {adaptive}", pair(), shared)


@pytest.mark.parametrize("tied, shared", [("", 0), (" --tie-adaptive-weights", 3), (TIED, 5)])
def test_tied_adaptive_embeddings(tied, shared):
    """Weights of three bands, and projections of two."""

    def tables(model):
        names = model.named_parameters(remove_duplicate=False)
        assert len(list(names)) - len(list(model.parameters())) == shared
        return []

    check_loads_back(TINY["mega_lm"] + ADAPTIVE_INPUT + tied, pair()[:1], tables)


@torch.no_grad()
@pytest.mark.parametrize(
    "arch, adaptive_input", [("mega", False), ("mega_lm", False), ("mega_lm", True)]
)
def test_an_adaptive_softmax_gives_probabilities(arch, adaptive_input):
    """They sum to one over the vocabulary, and their logarithms are what the criterion sums up."""
    options = TINY[arch] + (ADAPTIVE_INPUT + TIED if adaptive_input else ADAPTIVE)
    model = make_model(options)
    names = ("src_tokens", "src_lengths", "prev_output_tokens")
    inputs = dict(zip(names, pair())) if arch == "mega" else {"src_tokens": pair()[0]}
    target = list(inputs.values())[-1].clone()
    # fairseq's criterion leaves out the second word of each tail, whose index there is padding's.
    target[(target == 9) | (target == 15)] = 10
    sample = {"net_input": inputs, "target": target, "ntokens": 1}

    task = SimpleNamespace(target_dictionary=make_dictionary(20))
    criterion = AdaptiveLoss(task, sentence_avg=False)
    result = model(**inputs)
    log_probs = model.get_normalized_probs(result, log_probs=True)
    assert_close(log_probs.exp().sum(-1), torch.ones(target.shape, dtype=torch.float64))
    loss, _, _ = criterion(model, sample)
    words = target.ne(1)
    expected = -log_probs.gather(2, target.unsqueeze(2)).squeeze(2)[words].sum()
    assert_close(loss.squeeze(), expected)


def write_vectors(path, vectors, header=True):
    """A file of word vectors in fairseq's text format, or without its header in GloVe's."""
    lines = [f"{len(vectors)} {len(next(iter(vectors.values())))}"] * header
    lines += [" ".join([word, *map(str, row)]) for word, row in vectors.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def check_rows(embedding, vectors):
    dictionary = make_dictionary(20)
    for word, row in vectors.items():
        assert_close(embedding.weight[dictionary.index(word)], torch.tensor(row), 1e-6)
    others = [i for i in range(4, 20) if dictionary[i] not in vectors]
    assert (embedding.weight[others].std() > 0.1).item()
    assert (embedding.weight[dictionary.pad()] == 0).all()


def test_pretrained_embeddings(tmp_path):
    source = {"w3": [0.5 + i for i in range(12)], "w9": [-1.0] * 12}
    target = {"w0": [2.0] * 6}
    paths = [write_vectors(tmp_path / name, v) for name, v in (("s", source), ("t", target))]
    options = f"--encoder-embed-path {paths[0]} --decoder-embed-path {paths[1]}"
    model = build(f"{TINY['mega']} --decoder-input-dim 6 {options}")
    check_rows(model.encoder.embed_tokens, source)
    check_rows(model.decoder.embed_tokens, target)

    model = build(f"{TINY['mega']} --share-all-embeddings --encoder-embed-path {paths[0]}")
    check_rows(model.decoder.embed_tokens, source)
    model = build(f"{TINY['mega_lm']} --decoder-input-dim 6 --decoder-embed-path {paths[1]}")
    check_rows(model.decoder.embed_tokens, target)


@pytest.mark.parametrize("option", ["--encoder-embed-path", "--decoder-embed-path"])
def test_embeddings_without_a_header(option, tmp_path):
    """All rows of GloVe's format are read, the first one too, and words may be numbers or hold
    blanks."""
    vectors = {"w3": [0.5 + i for i in range(12)], ". .": [3.0] * 12, "7": [4.0] * 12}
    vectors["w9"] = [-1.0] * 12
    path = write_vectors(tmp_path / "vectors", vectors, header=False)
    model = build(f"{TINY['mega']} {option} {path}")
    side = model.encoder if "encoder" in option else model.decoder
    del vectors[". ."], vectors["7"]
    check_rows(side.embed_tokens, vectors)


def inputs_of(arch):
    return pair() if arch == "mega" else pair()[:1]


@pytest.mark.parametrize(
    "row, says, header",
    [
        ("w5" + " 0.5" * 11, "11 numbers after 'w5', but the embedding has 12", True),
        ("w5" + " 0.5" * 2, "2 numbers after 'w5', but the embedding has 12", True),
        ("w5" + " 0.5" * 13, "13 numbers after 'w5', but the embedding has 12", False),
        ("w5 x" + " 0.5" * 11, "could not convert string to float: 'x'", True),
        ("w5 nan" + " 0.5" * 11, "a NaN or an infinite number after 'w5'", False),
        ("w5\udcff" + " 0.5" * 12, "can't decode byte 0xff", True),
    ],
)
def test_a_wrong_row_is_named(row, says, header, tmp_path):
    path = write_vectors(tmp_path / "vectors", {"w3": [2.0] * 12, "w4": [1.0] * 12}, header)
    with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f"{row}\n")
    model = build(f"{TINY['mega_lm']} --decoder-embed-path {path}")
    with pytest.raises(ValueError) as error:
        model(*inputs_of("mega_lm"))
    where = f"--decoder-embed-path is {path}, which cannot be read: line {3 + header}: "
    assert where in str(error.value) and says in str(error.value)


def damage(path, how):
    path.unlink()
    if how == "a pipe":  # to read it would take forever
        os.mkfifo(path)
    elif how != "moved":
        path.write_text({"empty": "", "no numbers": "1 2\nw3 a b\n"}[how])


@pytest.mark.parametrize(
    "arch, side, how",
    [
        ("mega", "encoder", "moved"),
        ("mega", "decoder", "a pipe"),
        ("mega_lm", "decoder", "empty"),
        ("mega_lm", "decoder", "no numbers"),
    ],
)
def test_only_the_weights_of_a_checkpoint_replace_an_embedding_file(arch, side, how, tmp_path):
    path = write_vectors(tmp_path / "vectors", {"w3": [2.0] * 12})
    options, inputs = f"{TINY[arch]} --{side}-embed-path {path}", inputs_of(arch)
    trained = build(options).eval()
    damage(path, how)
    model = build(options)
    for each in (model, copy.deepcopy(model), model.eval()):
        with pytest.raises(ValueError, match=f"--{side}-embed-path is {path}, which cannot be"):
            each(*inputs)
    model.load_state_dict(trained.state_dict())
    assert torch.equal(model(*inputs)[0], trained(*inputs)[0])
    assert copy.deepcopy(model).train()(*inputs)[0].isfinite().all()
