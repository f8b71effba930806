"""One model in evaluation serves many threads."""

import copy
import sys
import threading

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from helpers import TINY, batch_of, make_dictionary, make_model, sentences
from load import disturbances

from fairseq_mega.modules.packed import pack_linear_layers_

THREADS, ROUNDS = 6, 4


@pytest.fixture(autouse=True)
def short_switch_interval():
    """Makes threads switch as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work):
    """The results of `work(i)` for each thread, each repeated; a failure in any is raised."""
    results, failures = [[] for _ in range(THREADS)], []
    barrier, device = threading.Barrier(THREADS), torch.get_default_device()

    def run(i):
        try:
            barrier.wait()
            with device:
                results[i].extend(work(i) for _ in range(ROUNDS))
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    if failures:
        raise failures[0]
    return results


def check(work, expected=None):
    expected = expected or [work(i) for i in range(THREADS)]
    for i, results in enumerate(in_threads(work)):
        for result in results:
            assert all(torch.equal(a, b) for a, b in zip(result, expected[i], strict=True))


@pytest.mark.parametrize("bias, chunk", [("simple", 4), ("rotary", -1)])
def test_beam_search(bias, chunk, monkeypatch):
    options = dict(rel_pos_bias=bias, decoder_chunk_size=chunk, encoder_chunk_size=chunk)
    monkeypatch.setattr("fairseq_mega.modules.packed.LEAST_PACKED", 1)
    model = make_model(TINY["mega"], **options).float()
    pack_linear_layers_(model)
    packed_by_one, packed_by_many = copy.deepcopy(model), model

    def translate(i, model):
        src_tokens = batch_of(sentences(3 + i, 9 - i, seed=i), left_pad=True)
        lengths = src_tokens.ne(1).sum(1)
        generator = SequenceGenerator([model], make_dictionary(20), beam_size=3, max_len_b=9)
        generator.to(torch.get_default_device())
        sample = {"net_input": {"src_tokens": src_tokens, "src_lengths": lengths}}
        return [
            h["positional_scores"] for each in generator.generate([model], sample) for h in each
        ]

    check(
        lambda i: translate(i, packed_by_many),
        expected=[translate(i, packed_by_one) for i in range(THREADS)],
    )


def test_parallel_passes_and_states():
    options = dict(rel_pos_bias="rotary", decoder_chunk_size=4)
    model = make_model(TINY["mega_lm"], **options).eval()

    @torch.no_grad()
    def read(i):
        tokens = batch_of(sentences(5 + 3 * i, seed=i))
        state = model.start()
        return model(tokens)[0], state.read(tokens[:, :-1]), state.predict()

    check(read)


@pytest.mark.cpu_only
def test_eight_threads_with_works_of_all_kinds():
    """`make numerics` does the same for a minute."""
    count, wrong = disturbances(2.0)
    assert count >= 8 and not wrong
