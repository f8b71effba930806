"""Streaming evaluation: the scores of one parallel pass, in memory that does not grow."""

import logging
import re

import fairseq.options
import pytest
import torch
from classification import dictionary_of
from fairseq.data import indexed_dataset
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.sequence_scorer import SequenceScorer
from fairseq_cli import eval_lm
from helpers import (
    TINY,
    Storages,
    assert_close,
    batch_of,
    build,
    make_dictionary,
    make_model,
    parse,
    scatter,
    sentences,
)
from honest import state_of, with_data

from fairseq_mega.models.streaming import Stream, target_scores

CHUNK = 4
# Two chunks are a segment; then around the ends of chunks and of segments.
LENGTHS = (8, 9, 12, 13, 16, 17, 24, 25)
ADAPTIVE = {
    "adaptive_softmax_cutoff": "8,14",
    "adaptive_softmax_factor": 2.0,
    "criterion_name": "adaptive_loss",
}


def make(chunk=CHUNK, **options):
    return make_model(TINY["mega_lm"], decoder_chunk_size=chunk, truncation_length=0, **options)


def sample_of(*lengths, streaming):
    """Texts as the task batches them; the target is the next token."""
    tokens = batch_of(sentences(*lengths))
    target = batch_of([row.roll(-1) for row in sentences(*lengths)])
    return {"net_input": {"src_tokens": tokens, "streaming": streaming}, "target": target}


def score(models, lengths, streaming, softmax_batch=None):
    """The score of every token by fairseq's scorer, text after text."""
    scorer = SequenceScorer(make_dictionary(20), softmax_batch)
    hypotheses = scorer.generate(models, sample_of(*lengths, streaming=streaming))
    scores = [hypothesis[0]["positional_scores"] for hypothesis in hypotheses]
    assert [len(each) for each in scores] == list(lengths)
    return torch.cat(scores)


def check_streaming(models, *lengths, softmax_batch=None, tolerance=1e-5):
    streamed = score(models, lengths, True, softmax_batch)
    assert torch.isfinite(streamed).all() and streamed.std() > 0.1
    assert (streamed - score(models, lengths, False)).abs().max() < tolerance, lengths


# --- the same scores ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function, bias", [("softmax", "simple"), ("relu2", "rotary"), ("laplace", "simple")]
)
def test_streaming_equals_one_parallel_pass(function, bias):
    model = make(rel_pos_bias=bias, attention_activation_fn=function)
    for length in LENGTHS:
        check_streaming([model], length)


@pytest.mark.parametrize(
    "options",
    [
        {"chunk": 1, "normalize_before": True},
        {"chunk": 7, "normalization_type": "batchnorm"},
        {"decoder_chunks_before": 1, "rel_pos_bias": "rotary"},
        {"chunk": 2, "decoder_chunks_before": 3},
        {"decoder_input_dim": 6, "decoder_ffn_embed_dim": 0},
        {"share_decoder_input_output_embed": True, "no_scale_embedding": True},
        {
            **ADAPTIVE,
            "adaptive_input": True,
            "adaptive_input_cutoff": "8,14",
            "adaptive_input_factor": 2.0,
            "tie_adaptive_weights": True,
            "tie_adaptive_proj": True,
        },
    ],
    ids=str,
)
def test_streaming_with_other_options(options):
    model = make(**options)
    for length in (9, 16, 25):
        check_streaming([model], length)


@pytest.mark.parametrize("options", [{}, ADAPTIVE], ids=str)
def test_texts_of_different_lengths_and_batches_of_the_softmax(options):
    model = make(**options)
    for lengths in ((25, 9, 1), (17, 16, 8)):
        for softmax_batch in (None, 1, 5, 13, 1000):
            check_streaming([model], *lengths, softmax_batch=softmax_batch)


@pytest.mark.parametrize("softmax_batch", [None, 6])
def test_ensembles(softmax_batch):
    """Models of an ensemble may have different chunks: one of the three does not stream a text of
    25."""
    models = [scatter(make(chunk), seed=chunk) for chunk in (4, 6, 13)]
    check_streaming(models, 25, 14, softmax_batch=softmax_batch)


def test_only_texts_longer_than_a_segment_stream():
    model = make()
    outputs = [
        model(**sample_of(length, streaming=streaming)["net_input"])
        for length, streaming in ((8, True), (9, True), (9, False))
    ]
    assert [isinstance(output[-1], Stream) for output in outputs] == [False, True, False]


def test_in_half_precision_scores_are_close():
    model = make().to(torch.bfloat16)
    check_streaming([model], 25, 9, tolerance=0.3)


# --- memory -------------------------------------------------------------------------------------


class Memory(Storages):
    """The largest number of bytes of the tensors that are made inside, at any time."""

    peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(func, types, args, kwargs)
        alive = {at: each for at, each in self.storages.items() if not each[0].expired()}
        self.storages = alive
        self.peak = max(self.peak, self.kept())
        return out


@pytest.mark.parametrize("softmax_batch, options", [(None, {}), (3, ADAPTIVE)], ids=str)
def test_memory_does_not_grow_with_the_text(softmax_batch, options):
    """Memory is bounded but for the results: a few values for each token."""
    model = make(**options)

    def peak(length, streaming):
        with Memory() as memory:
            score([model], (length,), streaming, softmax_batch)
        return memory.peak

    per_token = 2 * 8 + 3 * 4  # token, target, score and its copies
    assert peak(256, True) - peak(64, True) < (256 - 64) * per_token
    assert peak(256, False) - peak(64, False) > (256 - 64) * 25 * per_token


@pytest.mark.parametrize("softmax_batch, most", [(None, 8), (8, 8), (3, 3)])
def test_at_most_a_segment_is_read_and_scored_at_a_time(softmax_batch, most):
    model, read, scored = make(), [], []
    model.decoder.layers[0].register_forward_hook(lambda _, x, y: read.append(y[0].shape[:2]))
    model.decoder.output_projection.register_forward_hook(
        lambda _, x, y: scored.append(y.shape[:2].numel())
    )
    score([model], (50, 21), True, softmax_batch)
    assert read == [(1, 8)] * 6 + [(1, 2)] + [(1, 8)] * 6 + [(1, 2)]
    assert max(scored) == most and sum(scored) == 100


@pytest.mark.parametrize("entries, most", [(2**24, 22), (90, 4), (1, 2)])
@torch.no_grad()
def test_scores_over_the_vocabulary_are_held_for_some_positions_at_a_time(
    entries, most, monkeypatch
):
    """If the scores of even one position of each row exceed the limit, positions are scored one at
    a time."""
    monkeypatch.setattr("fairseq_mega.models.streaming.ENTRIES", entries)
    decoder, scored = make().decoder, []
    target = torch.stack(sentences(11, 11))
    features = decoder.extract_features(target)[0]
    expected = decoder.output_layer(features).log_softmax(-1).gather(2, target.unsqueeze(2))
    decoder.output_projection.register_forward_hook(
        lambda _, x, y: scored.append(y.shape[:2].numel())
    )
    assert_close(target_scores(decoder, features, target), expected.squeeze(2), 1e-6)
    assert max(scored) == most and sum(scored) == 22


# --- fairseq-eval-lm ----------------------------------------------------------------------------

WORDS = [f"w{i}" for i in range(12)] + [f"part{i}@@" for i in range(6)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A binarised text, and checkpoints of models with telling weights."""
    folder = tmp_path_factory.mktemp("streaming")
    dictionary = dictionary_of(WORDS)
    dictionary.save(str(folder / "dict.txt"))
    builder = indexed_dataset.make_builder(str(folder / "test.bin"), "mmap", len(dictionary))
    for line in sentences(*range(3, 20), words=len(dictionary)):
        builder.add_item(line)
    builder.finalize(str(folder / "test.idx"))
    for name, options in {
        "rotary": "--decoder-chunk-size 8 --rel-pos-bias rotary",
        "full": "--decoder-chunk-size -1 --rel-pos-bias rotary",
    }.items():
        options = f"{TINY['mega_lm']} --truncation-length 0 {options}"
        model = scatter(build(options, words=4 + len(WORDS)))
        torch.save(state_of(with_data(parse(options), folder), model), folder / f"{name}.pt")
    return folder


@pytest.fixture
def evaluate(corpus, caplog):
    """Runs fairseq-eval-lm in this process: its loss, and the words with their scores."""

    def evaluate(checkpoint, *options, data=corpus):
        words = f"{data} --path {corpus / checkpoint} --cpu --num-workers 0 --output-word-probs "
        words += "--sample-break-mode none --required-batch-size-multiple 1"
        words = [*words.split(), *options]
        parser = fairseq.options.get_eval_lm_parser()
        cfg = convert_namespace_to_omegaconf(fairseq.options.parse_args_and_arch(parser, words))
        caplog.clear()
        with caplog.at_level(logging.INFO):
            results = eval_lm.main(cfg)
        return float(results["loss"]), re.findall(WORD_SCORE, caplog.text)

    return evaluate


WORD_SCORE = r"(\S+) \[(-[\d.]+)\]"
LONG_TEXT = ["--task", "mega_language_modeling", "--valid-block"]
PARALLEL = ["--task", "language_modeling", "--tokens-per-sample", "60"]


@pytest.mark.parametrize(
    "size, options",
    [
        (60, ["--batch-size", "2", "--softmax-batch", "7", "--post-process", "@@ "]),
        (60, ["--model-overrides", "{'decoder_chunk_size': 16}"]),
        (60, ["--add-bos-token", "--max-tokens", "130", "--output-word-stats"]),
        (40, ["--context-window", "20", "--batch-size", "1"]),  # which fairseq's 60 tokens include
    ],
)
def test_eval_lm(size, options, evaluate):
    streamed = evaluate("rotary.pt", *LONG_TEXT, f"size:{size}", *options)
    assert_same(streamed, evaluate("rotary.pt", *PARALLEL, *options))


def assert_same(streamed, parallel, tolerance=2e-5):
    (loss, words), (parallel_loss, parallel_words) = streamed, parallel
    assert len(words) > 100
    assert [word for word, _ in words] == [word for word, _ in parallel_words]
    scores, parallel = ([float(score) for _, score in each] for each in (words, parallel_words))
    assert scores == pytest.approx(parallel, abs=tolerance)
    assert loss == pytest.approx(parallel_loss, abs=tolerance)


def test_full_attention_in_eval_lm(evaluate):
    says = r"--valid-block is size:60.* 60 tokens.*a complete sample at once.*--model-overrides"
    with pytest.raises(ValueError, match=says):
        evaluate("full.pt", *LONG_TEXT, "size:60")


def test_the_published_evaluation_in_segments(evaluate, parity):
    """The published code's scores: one stream in segments of two chunks."""
    folder = parity / "language_model"
    ours = evaluate(folder / "checkpoint.pt", *LONG_TEXT, "splits:1", data=folder / "data-bin")
    published = re.findall(WORD_SCORE, (folder / "eval.txt").read_text())
    assert len(published) == 953
    assert_same(ours, (4.2914, published), tolerance=1e-4)
