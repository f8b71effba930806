"""Masked language models and the classifiers that start from them."""

import pytest
import torch
from helpers import assert_close, batch_of, sentences
from masked_lm import CLASSES, HEAD, WORDS, build, make_model

from fairseq_mega import MegaMaskedLM

LENGTHS = (3, 12, 7, 1, 16)
CHUNKS = {"full": {}, "chunks": {"encoder_chunk_size": 4}}
modes = pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)


@torch.no_grad()
def scores(model, rows, left_pad=False, **options):
    return model(batch_of(rows, left_pad), **options)[0]


@modes
@pytest.mark.parametrize("left_pad", [False, True])
def test_padding_and_batches_never_change_scores(chunks, left_pad):
    """Scores of words and of classes do not depend on the batch."""
    rows = sentences(*LENGTHS)
    model, classifier = make_model(rel_pos_bias="rotary", **chunks), make_model(CLASSES, **chunks)
    head = dict(features_only=True, classification_head_name=HEAD)
    words, classes = scores(model, rows, left_pad), scores(classifier, rows, left_pad, **head)
    assert classes.shape == (len(rows), 3)
    for row, ours, theirs in zip(rows, words, classes):
        ours = ours[-len(row) :] if left_pad else ours[: len(row)]
        assert_close(ours, scores(model, [row])[0])
        assert_close(theirs, scores(classifier, [row], **head)[0])


def test_scores_of_masked_tokens_are_those_of_all():
    model, rows = make_model(), sentences(*LENGTHS)
    masked = torch.rand(len(rows), max(LENGTHS)) < 0.3
    assert_close(scores(model, rows, masked_tokens=masked), scores(model, rows)[masked])


@pytest.mark.parametrize("options, head", [(WORDS, None), (CLASSES, HEAD)])
@torch.no_grad()
def test_probabilities(options, head):
    model = make_model(options)
    output = model(batch_of(sentences(*LENGTHS)), classification_head_name=head)
    expected = torch.softmax(output[0].float(), dim=-1)
    assert_close(model.get_normalized_probs(output, log_probs=False), expected)
    assert_close(model.get_normalized_probs(output, log_probs=True).exp(), expected, 1e-6)


def test_features_and_states():
    model, rows = make_model(normalize_before=True), sentences(*LENGTHS)
    with torch.no_grad():
        features, extra = model(batch_of(rows), features_only=True, return_all_hiddens=True)
    assert features.shape == (5, 16, 12) and len(extra["inner_states"]) == 3
    last = model.encoder.final_norm(extra["inner_states"][-1]).transpose(0, 1)
    for row, ours, theirs in zip(rows, features, last):
        assert_close(ours[: len(row)], theirs[: len(row)])
        assert not ours[len(row) :].any()


def test_a_classifier_starts_from_the_encoder(caplog):
    caplog.set_level("INFO")
    saved, model = make_model(), make_model(CLASSES)
    head = {name: value.clone() for name, value in model.classification_heads.state_dict().items()}
    model.load_state_dict(dict(saved.state_dict()), strict=True)
    rows = sentences(*LENGTHS)
    features = scores(saved, rows, features_only=True)
    assert_close(scores(model, rows, features_only=True), features, 0.0)
    assert all(
        torch.equal(head[name], value)
        for name, value in model.classification_heads.state_dict().items()
    )
    assert not any("lm_head" in name for name, _ in model.named_parameters())
    assert f"classification_heads.{HEAD} is not in the checkpoint" in caplog.text


def test_a_head_of_other_classes_is_recreated():
    saved = make_model(CLASSES)
    model = build(CLASSES.replace("--num-classes 3", "--num-classes 5")).double()
    model.load_state_dict(dict(saved.state_dict()))
    assert model.classification_heads[HEAD].out_proj.out_features == 5
    dense = f"classification_heads.{HEAD}.dense.weight"
    assert torch.equal(model.state_dict()[dense], saved.state_dict()[dense])


def test_heads_that_are_not_there_are_named():
    classifier = make_model(CLASSES)
    tokens = batch_of(sentences(3))
    with pytest.raises(ValueError, match="classification_head_name"):
        classifier(tokens)
    with pytest.raises(ValueError, match="'other'.*register_classification_head"):
        classifier(tokens, classification_head_name="other")
    with pytest.raises(ValueError, match="lm_head.*of a classifier"):
        make_model().load_state_dict(dict(classifier.state_dict()))
    with pytest.raises(ValueError, match="--no-lm-dense"):
        make_model().load_state_dict(dict(make_model(no_lm_dense=True).state_dict()))


def test_a_table_of_another_length_names_the_option():
    saved = make_model()
    with pytest.raises(ValueError, match="--max-positions"):
        build(CLASSES, max_positions=None).load_state_dict(
            dict(make_model(max_positions=16).state_dict())
        )
    build(CLASSES).load_state_dict(dict(saved.state_dict()))


def test_longest_sequence():
    assert build(WORDS).max_positions() == 32
    assert build(WORDS, encoder_chunk_size=4).max_positions() > 10**9
    assert build(WORDS, rel_pos_bias="rotary").max_positions() > 10**9


# Layers, D, H and feed-forward, Z, bias table, whether there is a final norm; N is 16.
PRESETS = {
    "mega_masked_lm": (6, 512, 1024, 128, 2 * 512 - 1, False),
    "mega_masked_lm_small": (4, 256, 512, 64, 2 * 64, True),
    "mega_masked_lm_base": (12, 768, 1536, 256, 2 * 256, True),
}


@pytest.mark.parametrize("arch", PRESETS)
def test_presets(arch):
    """Parameters are counted from the equations; the embeddings are the head's."""
    layers, d, h, z, table, final = PRESETS[arch]
    options = f"--task masked_lm --criterion masked_lm -a {arch} --tokens-per-sample 512"
    with torch.device("meta"):
        model = build(options, words=1000)
    assert isinstance(model, MegaMaskedLM)
    inputs = 8 * d * 16 + d + d * h + h + (d + 1) * (z + h + 2 * d)
    layer = 2 * d + inputs + h * d + d + 4 * z + table + 2 * d + 2 * d * h + h + d
    expected = layers * layer + 1000 * d + d * d + d + 1000 + 2 * d * final
    assert sum(p.numel() for p in model.parameters()) == expected
