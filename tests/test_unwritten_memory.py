"""Uninitialised memory never changes a result: here torch fills all of it with NaN."""

import classification
import masked_lm
import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from helpers import (
    BIASES,
    FUNCTIONS,
    TINY,
    batch_of,
    build,
    first,
    make_dictionary,
    make_ema,
    make_gated,
    make_model,
    padding,
    pairwise,
    randn,
    run_segments,
    sentences,
)
from torch.utils import deterministic

from fairseq_mega.ops.ema import ema, ema_segment


@pytest.fixture
def check():
    """A function that compares the tensors of `work()` with and without filled memory."""

    def fill(yes):
        torch.use_deterministic_algorithms(yes)
        deterministic.fill_uninitialized_memory = yes

    def check(work):
        fill(False)
        expected = work()
        fill(True)
        assert torch.empty(3).isnan().all()
        for ours, theirs in zip(work(), expected, strict=True):
            assert torch.isfinite(ours).all() and torch.equal(ours, theirs)

    yield check
    fill(False)
    deterministic.fill_uninitialized_memory = True  # torch's default, without effect by itself


def with_gradients(module, output):
    """The output, and gradients of all parameters that it depends on."""
    module.zero_grad()
    output.backward(randn(*output.shape, seed=7).to(output.dtype))
    return [output.detach(), *(p.grad.clone() for p in module.parameters() if p.grad is not None)]


@pytest.mark.parametrize("tied", ["", "--tie-adaptive-weights --tie-adaptive-proj"])
def test_initial_adaptive_tables(check, tied):
    options = "--criterion adaptive_loss --adaptive-softmax-cutoff 8,14 --adaptive-softmax-factor 2"
    options += f" --adaptive-input --adaptive-input-cutoff 8,14 --adaptive-input-factor 2 {tied}"

    def work():
        torch.manual_seed(1)
        return list(build(f"{TINY['mega_lm']} {options}").state_dict().values())

    check(work)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("length, taps", [(9, None), (100, 20), (1100, None)])
def test_averages(check, length, taps, bidirectional):
    """Averages in one block, by blocks and by FFTs; with a state."""
    module = make_ema(bidirectional=bidirectional)

    def work():
        x = randn(3, length, 4, requires_grad=True)
        y = ema(x, module.ema_parameters(), module.omega, taps)
        if not bidirectional:
            y = y + ema_segment(x, *module.directions(), randn(3, 4, 3, seed=2))[0]
        return [*with_gradients(module, y), x.grad]

    check(work)


@pairwise(
    attention_activation=FUNCTIONS,
    rel_pos_bias=BIASES,
    chunk_size=[-1, 4],
    bidirectional=[False, True],
)
def test_layers(check, bidirectional, options):
    dropouts = dict.fromkeys(("dropout", "attention_dropout", "hidden_dropout"), 0.1)
    module, _ = make_gated(bidirectional=bidirectional, **dropouts, **options)
    x, mask = randn(3, 11, 6), padding(11, [11, 5, 1])

    def work():
        torch.manual_seed(1)
        results = with_gradients(module.train(), first(module(x, mask)))
        if bidirectional:
            return results
        return [*results, run_segments(module.eval(), x, [3, 1, 1, 5, 1])]

    check(work)


@pytest.mark.parametrize("chunk, function", [(-1, "softmax"), (4, "relu2"), (4, "laplace")])
def test_translation(check, chunk, function):
    """Training with dropout, and beam search."""
    options = dict(encoder_chunk_size=chunk, decoder_chunk_size=chunk)
    options |= dict(rel_pos_bias="rotary", attention_activation_fn=function)
    model = make_model(TINY["mega"], dropout=0.1, **options)
    source, target = batch_of(sentences(5, 9), left_pad=True), batch_of(sentences(7, 4, seed=4))
    lengths = source.ne(1).sum(1)

    def work():
        torch.manual_seed(1)
        results = with_gradients(model.train(), model(source, lengths, target)[0])
        model.eval()
        generator = SequenceGenerator([model], make_dictionary(20), beam_size=3, max_len_b=12)
        sample = {"net_input": {"src_tokens": source, "src_lengths": lengths}}
        found = [h for each in generator.generate([model], sample) for h in each]
        return results + [h[name] for h in found for name in ("tokens", "positional_scores")]

    check(work)


def test_language_model(check):
    """Training with dropout; a state that is read in parts, saved and restored."""
    model = make_model(TINY["mega_lm"], dropout=0.1, rel_pos_bias="rotary", decoder_chunk_size=4)
    tokens = batch_of(sentences(19, 19))

    def work():
        torch.manual_seed(1)
        results = with_gradients(model.train(), model(tokens)[0])
        state = model.eval().start(2)
        parts = [state.read(part) for part in tokens.split([6, 1, 1, 11], dim=1)]
        restored = model.restore(state.save())
        return [*results, *parts, state.predict(), restored.predict(), restored.read(tokens)]

    check(work)


def test_classifiers(check):
    for options, words, rows in (
        (classification.TEXT, 20, classification.symbols(9, 9, 9)),
        (classification.IMAGE, None, classification.numbers(9, 9, 9)),
    ):
        model = classification.make_model(options, words=words, chunk_size=4)
        batch = classification.batch(rows, pad=1 if words else 0)
        check(lambda: with_gradients(model, model(batch)["encoder_out"]))  # noqa: B023


@pytest.mark.parametrize("chunk", [-1, 4])
def test_masked_language_model(check, chunk):
    model = masked_lm.make_model(encoder_chunk_size=chunk)
    tokens = batch_of(sentences(9, 4, 13))
    check(lambda: with_gradients(model, model(tokens)[0]))
