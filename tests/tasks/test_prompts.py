"""Prompts that are read in parallel are continued as by fairseq's generator."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.search import DiverseBeamSearch, Sampling
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks.language_modeling import LanguageModelingTask
from helpers import (
    TINY,
    assert_close,
    batch_of,
    build,
    make_dictionary,
    make_model,
    parse,
)

from fairseq_mega import MegaLanguageModelingTask
from fairseq_mega.tasks.prompts import PromptGenerator

CHUNK = 4
WORDS = 20
DICTIONARY = make_dictionary(WORDS)
OPTIONS = {"beam_size": 3, "max_len_a": 1, "max_len_b": 7}
CHUNKED = {"decoder_chunk_size": CHUNK, "truncation_length": 0}


@pytest.fixture(scope="module")
def model():
    return language_model()


def language_model(seed=0, **options):
    """Makes a model with smaller logits than other tests, so that hypotheses may end."""
    model = make_model(TINY["mega_lm"], **{**CHUNKED, **options})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "embed_tokens" in name or name.endswith("output_projection.weight"):
                noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                value.copy_(noise * value.size(1) ** -0.5)
    return model


def words(*lengths, seed=1):
    """Makes prompts of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, WORDS, (length,), generator=generator) for length in lengths]


def make_batch(prompts):
    """Makes a batch as ``LanguageModelingTask`` does for inference, and its prompts (B, T)."""
    eos = torch.tensor([DICTIONARY.eos()])
    src_tokens = batch_of([torch.cat([eos, prompt]) for prompt in prompts])
    lengths = torch.tensor([len(prompt) + 1 for prompt in prompts])
    sample = {"net_input": {"src_tokens": src_tokens, "src_lengths": lengths}}
    return sample, src_tokens[:, 1:]


def generate(kind, models, prompts, **options):
    sample, prefix = make_batch(prompts)
    generator = kind(models, DICTIONARY, **{**OPTIONS, **options})
    return generator.generate(models, sample, prefix_tokens=prefix, bos_token=DICTIONARY.eos())


def check(models, prompts, **options):
    """Compares hypotheses and scores with those of fairseq's generator, best first."""
    ours, theirs = (
        generate(kind, models, prompts, **options) for kind in (PromptGenerator, SequenceGenerator)
    )
    assert_same(ours, theirs)
    return ours


def assert_same(ours, theirs):
    assert [len(each) for each in ours] == [len(each) for each in theirs]
    for a, b in ((a, b) for pair in zip(ours, theirs) for a, b in zip(*pair)):
        assert a["tokens"].equal(b["tokens"])
        assert_close(a["score"], b["score"], 1e-5)
        assert_close(a["positional_scores"], b["positional_scores"], 1e-5)
        assert a.keys() == b.keys()


class Calls:
    """Records the shape of the tokens that each call of a model reads."""

    def __init__(self, model):
        self.shapes = []
        self.hook = model.decoder.embed_tokens.register_forward_pre_hook(
            lambda _, inputs: self.shapes.append(tuple(inputs[0].shape))
        )

    def __enter__(self):
        return self.shapes

    def __exit__(self, *_):
        self.hook.remove()


# --- the same as fairseq ------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 4, 5, 8, 9, 17])
def test_prompts_around_the_ends_of_chunks_and_segments(model, length):
    (hypotheses,) = check([model], words(length))
    assert len({tuple(hypothesis["tokens"].tolist()) for hypothesis in hypotheses}) == 3
    for hypothesis in hypotheses:
        assert hypothesis["tokens"][:length].equal(words(length)[0])
        assert len(hypothesis["tokens"]) > length


@pytest.mark.parametrize(
    "options",
    [
        {"decoder_chunk_size": -1, "attention_activation_fn": "laplace"},
        {"decoder_chunk_size": 1, "rel_pos_bias": "rotary", "normalize_before": True},
        {"decoder_chunk_size": 3, "decoder_chunks_before": 1},
        {
            "adaptive_softmax_cutoff": "8,14",
            "criterion_name": "adaptive_loss",
            "adaptive_softmax_factor": 2,
        },
    ],
    ids=str,
)
def test_other_models(options):
    check([language_model(**options)], words(14, 0, 9))


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": 1, "temperature": 0.6},
        {"beam_size": 12, "len_penalty": 0.3},
        {"normalize_scores": False, "unk_penalty": 2.0},
        {"min_len": 14, "max_len_a": 0, "max_len_b": 14, "tokens_to_suppress": ("w3", "w5")},
        {"search_strategy": Sampling(DICTIONARY, sampling_topk=1), "temperature": 0.7},
    ],
    ids=str,
)
def test_options_of_the_search(model, options):
    prompts = words(9, 11)
    prompts[1][2] = DICTIONARY.unk()
    check([model], prompts, **options)


def test_ensembles_average_probabilities(model):
    other = language_model(seed=5, decoder_chunk_size=3)
    ours = check([model, other], words(13, 17))
    alone = check([model], words(13, 17))
    assert abs(ours[0][0]["score"] - alone[0][0]["score"]) > 1e-3


def test_a_prompt_that_ends_its_sentence_is_not_continued(model):
    prompts = words(10, 12)
    prompts[0][6] = DICTIONARY.eos()
    first, second = check([model], prompts)
    assert all(len(hypothesis["tokens"]) == 7 for hypothesis in first)
    assert all(len(hypothesis["tokens"]) > 12 for hypothesis in second)


@pytest.mark.parametrize(
    "options",
    [
        {"search_strategy": DiverseBeamSearch(DICTIONARY, 3, 0.5)},
        {"no_repeat_ngram_size": 2},
        {"match_source_len": True},
    ],
    ids=["diverse", "n-grams", "source's length"],
)
def test_searches_that_look_at_forced_tokens_see_them_all(model, options):
    prompts = [torch.arange(4, 15), torch.arange(6, 17)]
    with Calls(model) as calls:
        check([model], prompts, **options)
    assert set(calls) == {(6, 1)}


@pytest.mark.parametrize(
    "lengths, options", [((0, 6, 1, 2), {}), ((0, 0), {"no_repeat_ngram_size": 2})], ids=str
)
def test_lines_that_end_within_the_prefix_end_there(model, lengths, options):
    """The prefix of a short line includes its end (``--prefix-size``). fairseq's generator can only
    end an empty line with one beam."""
    eos = torch.tensor([DICTIONARY.eos()])
    lines = [torch.cat([line, eos]) for line in words(*lengths)]
    sample, _ = make_batch(lines)
    prefix = batch_of(lines)[:, :3]
    best = {}
    for kind, beam in ((PromptGenerator, 3), (PromptGenerator, 1), (SequenceGenerator, 1)):
        generator = kind([model], DICTIONARY, **{**OPTIONS, **options, "beam_size": beam})
        hypotheses = generator.generate([model], sample, prefix_tokens=prefix, bos_token=eos.item())
        best[kind, beam] = [each[:1] for each in hypotheses]
    assert_same(best[PromptGenerator, 1], best[SequenceGenerator, 1])
    ended = [row for row, length in enumerate(lengths) if length < 3]
    assert_same(*([each[row] for row in ended] for each in list(best.values())[:2]))
    for row in ended:
        assert best[PromptGenerator, 3][row][0]["tokens"].equal(lines[row])
    check([model], words(4, 5))  # nothing is left of the batch before


# --- in parallel --------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk, segments", [(CHUNK, [8] * 24 + [7]), (64, [128, 71]), (-1, [199])])
def test_a_long_prompt_takes_a_call_for_each_segment(chunk, segments):
    """Each token of the continuation takes one call more."""
    model = language_model(decoder_chunk_size=chunk, rel_pos_bias="rotary")
    with Calls(model) as calls:
        hypotheses = generate(PromptGenerator, [model], words(200, 200))
    longest = max(len(hypothesis["tokens"]) for each in hypotheses for hypothesis in each)
    assert longest > 203
    read, rest = calls[: len(segments)], calls[len(segments) :]
    assert read == [(2, width) for width in segments]
    assert {width for _, width in rest} == {1} and len(rest) <= 1 + 8 + 1


# --- from a task --------------------------------------------------------------------------------


LONG_TEXT = TINY["mega_lm"].replace("language_modeling", "mega_language_modeling")


def task_and_model(options=LONG_TEXT, **model_options):
    cfg = parse(options)
    model = build(options, **model_options).eval()
    return MegaLanguageModelingTask(cfg.task, DICTIONARY), model, cfg.generation


def test_a_task_continues_lines_that_were_typed():
    """Lines may be empty, have unknown words, or be longer than the model's training samples."""
    options = {"decoder_chunk_size": 8, "truncation_length": 0, "rel_pos_bias": "rotary"}
    task, model, generation = task_and_model(**options)
    lines = ["", "w1 w2 never w3", " ".join(f"w{i % 16}" for i in range(100))]
    tokens, lengths = task.get_interactive_tokens_and_lengths(lines, lambda line: line)
    dataset = task.build_dataset_for_inference(tokens, lengths)
    generation = SimpleNamespace(**{**generation, "max_len_a": 1, "max_len_b": 5})
    stock = LanguageModelingTask(parse(TINY["mega_lm"]).task, DICTIONARY)
    for rows in ([0], [1], [2], [1, 2], [0, 1, 2]):
        batch = dataset.collater([dataset[row] for row in rows])
        ours, theirs = (
            each.inference_step(each.build_generator([model], generation), [model], batch)
            for each in (task, stock)
        )
        assert_same(ours, theirs)
        for row, hypotheses in zip(rows, ours):
            assert hypotheses[0]["tokens"][: lengths[row] - 1].equal(tokens[row][:-1])


def test_other_models_are_left_to_fairseq():
    options = "--task mega_language_modeling --arch transformer_lm --decoder-layers 1 "
    options += "--decoder-embed-dim 8 --decoder-attention-heads 2 --tokens-per-sample 32"
    task, model, generation = task_and_model(options)
    assert type(task.build_generator([model], generation)) is SequenceGenerator


# --- bad input ----------------------------------------------------------------------------------


def test_a_prompt_without_room_for_it_is_refused(model):
    with pytest.raises(ValueError, match="12 tokens is too long for the 11 .*--max-len-b 11"):
        generate(PromptGenerator, [model], words(3, 12), max_len_a=0, max_len_b=11)
    (hypotheses,) = check([model], words(12), max_len_a=0, max_len_b=12)
    assert {len(hypothesis["tokens"]) for hypothesis in hypotheses} == {13}
    limited = language_model(decoder_chunk_size=-1)
    check([limited], words(31))
    with pytest.raises(ValueError, match="40 tokens is too long for the model's 32 positions"):
        generate(PromptGenerator, [limited], words(40))


def test_alignments_of_a_language_model_are_refused():
    task, model, _ = task_and_model()
    with pytest.raises(
        ValueError, match="--print-alignment is hard: a language model has no source"
    ):
        task.build_generator([model], SimpleNamespace(print_alignment="hard"))
