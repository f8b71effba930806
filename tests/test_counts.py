"""What the benchmark's counter counts, on cases that are counted by hand."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from examples.benchmark import count, counted
from examples.benchmark.counter import Counter


def meta(*shape, dtype=torch.bfloat16, **options):
    return torch.empty(*shape, dtype=dtype, device="meta", **options)


def counts_of(function, *args):
    with Counter() as counter:
        counter.start()
        function(*args)
    return counter.counts


HALF = 2  # bytes of a bfloat16
CASES = {  # function, arguments; launches, bytes read, bytes written
    "a product": (torch.mm, [(4, 8), (8, 2)], 1, HALF * (32 + 16), HALF * 8),
    "views": (lambda x: x.t()[:2].unsqueeze(0).expand(3, 2, 4).detach(), [(4, 8)], 0, 0, 0),
    "reshaping a transposed matrix": (lambda x: x.t().reshape(-1), [(4, 8)], 1, 64, 64),
    "a broadcast vector": (torch.add, [(4, 8), (8,)], 1, HALF * (32 + 8), 64),
    "a vector that is shown often": (lambda x: x.expand(4, 8) * 2, [(8,)], 1, HALF * 8, 64),
    "windows": (lambda x: x.unfold(0, 4, 1) * 2, [(7,)], 1, HALF * 7, HALF * 16),
    "in place": (lambda x, y: x.add_(y), [(4, 8), (4, 8)], 1, 128, 64),
    "overwriting": (lambda x, y: x.copy_(y), [(4, 8), (4, 8)], 1, 64, 64),
    "into a given tensor": (lambda x, y: torch.mul(x, x, out=y), [(8,), (8,)], 1, 32, 16),
    "zeros": (lambda x: torch.zeros_like(x), [(4, 8)], 1, 0, 64),
    "memory alone": (lambda x: torch.empty_like(x), [(4, 8)], 0, 0, 0),
    "a linear layer": (F.linear, [(4, 8), (2, 8), (2,)], 1, HALF * (32 + 16 + 2), HALF * 8),
    "a product and a matrix": (  # a copy of the matrix, which the product reads and adds to
        torch.addmm, [(4, 2), (4, 8), (8, 2)], 2, HALF * (8 + 32 + 16 + 8), HALF * (8 + 8),
    ),
    "rows of a table": (
        lambda x: x[torch.zeros(3, dtype=torch.long, device="meta")],
        [(1000, 8)], 2, HALF * 24 + 3 * 8, HALF * 24 + 3 * 8,
    ),
    "dropout": (lambda x: F.dropout(x, 0.5), [(4, 8)], 1, 64, 64 + 32),  # and a mask of bytes
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_launches_and_bytes(name):
    function, shapes, launches, read, written = CASES[name]
    found = counts_of(function, *(meta(*shape) for shape in shapes)).launches
    assert len(found) == launches, found
    assert (sum(f.read for f in found), sum(f.written for f in found)) == (read, written), found


def test_operations_by_type():
    def work():
        meta(4, 8) @ meta(8, 2)
        meta(3, 4, 8, dtype=torch.float32) @ meta(3, 8, 2, dtype=torch.float32)
        torch.fft.rfft(meta(5, 16, dtype=torch.float32))

    found = counts_of(work)
    assert found.operations("half") == 2 * 4 * 8 * 2
    assert found.operations("float32") == 3 * 2 * 4 * 8 * 2
    assert found.operations("FFT") == 2.5 * 5 * 16 * 4


def test_the_backward_pass_counts():
    w = meta(8, 2, requires_grad=True)
    found = counts_of(lambda: (meta(4, 8) @ w).sum().backward())
    assert found.operations("half") == 2 * (2 * 4 * 8 * 2)  # x needs no gradient
    assert "mm" in found.by_name() and w.grad.shape == w.shape


def test_fused_attention_is_one_launch_and_half_of_it_causal():
    q = meta(1, 2, 64, 16)
    whole, causal = (
        counts_of(lambda c=c: F.scaled_dot_product_attention(q, q, q, is_causal=c))
        for c in (False, True)
    )
    assert len(whole.launches) == len(causal.launches) == 1
    assert whole.operations("half") == 2 * 2 * 2 * 64 * 64 * 16 == 2 * causal.operations("half")


def test_waits_and_what_is_read():
    """Whole numbers are known on the host, and so are the shapes that follow from them."""
    with Counter() as counter:
        tokens = counter.on_device(torch.tensor([[5, 1, 1], [7, 8, 1]]))
        counter.start()
        padding = tokens.eq(1)
        assert bool(padding.any()) and padding.sum(1).tolist() == [2, 1]
        x = meta(2, 3, 4)[~padding]
        x[:1] = 0.0
        x.masked_fill_(padding[:1, :1], 0.0)
        assert x.shape == (3, 4)
        assert tokens.cpu().tolist() == [[5, 1, 1], [7, 8, 1]]
    assert counter.counts.waits == ["item", "tolist", "nonzero", "to the host"]


def test_the_peak_is_of_what_lives_together():
    def work():
        x = torch.zeros(1000, dtype=torch.uint8, device="meta")
        for _ in range(5):
            x = x + 1

    assert counts_of(work).peak == 2000


SIZES = {"embed-dim": 32, "hidden-dim": 48, "ffn-embed-dim": 48, "z-dim": 8, "n-dim": 4}


def tiny(name):
    case = next(case for case in counted.COUNTED if case.name == name)
    part = "encoder" if case.model == "wmt" else "decoder"
    mega = " ".join(f"--{part}-{size} {value}" for size, value in SIZES.items())
    extra = f"--{part}-layers 1 --decoder-layers 1 {mega}"
    return case._replace(tokens=min(case.tokens, 256), extra=extra)


def test_a_training_step_never_waits():
    assert tiny("wmt").count("ours").waits == []


def test_a_step_of_beam_search_waits_twice():
    assert len(tiny("beam").count("ours").waits) <= 2


@pytest.mark.parametrize("side", ["ours", "ours, no Triton", "plain"])
def test_the_sides_have_the_same_products(side):
    found = tiny("wmt").count(side)
    ours = tiny("wmt").count("ours")
    assert found.operations("half") == pytest.approx(ours.operations("half"), rel=0.2)


def test_the_kernels_of_the_ema_move_a_quarter_of_what_ffts_do():
    averages = {form: counted.Average(form, 2048, 64).count() for form in counted.FORMS}
    assert averages["Triton"].bytes <= averages["FFTs"].bytes / 4
    assert averages["Triton"].bytes < averages["blocks"].bytes < averages["FFTs"].bytes


def test_the_estimate_is_the_longer_of_work_and_launches():
    found = counts_of(lambda: meta(1000, 1000) @ meta(1000, 1000))
    card = count.Card("", bandwidth=6e6, half=1e9, float32=1e9, source="")
    assert card.seconds(found) == pytest.approx(2.0)  # 2e9 operations; 6e6 bytes take one
    assert dataclasses.replace(card, half=1e30, bandwidth=1e30).seconds(found) == count.LAUNCH


def test_the_report_says_which_goals_are_missed():
    few = counts_of(lambda: meta(4) + 1)
    many = counts_of(lambda: [meta(4) + 1 for _ in range(4)])
    found = {case.name: {side: many for side in counted.SIDES} for case in counted.COUNTED}
    found["wmt"]["ours"] = few
    averages = {"Triton": few, "blocks": many, "FFTs": many}
    real = {"ms": 12.34, "busy_ms": 5.0, "kernels": 6, "gb": 7.0}
    cases = {case: {"ours": real} for case in (*found, "average")}
    measured = {"card": "NVIDIA H200", "torch": "2.11", "found": cases}
    text = count.report(found, averages, measured)
    assert "NVIDIA H200,\ntorch 2.11" in text and "| 12.3 | 5.0 | 6 | 7.00 |" in text
    assert "This changed." not in text and "| wmt | ours | 0.00 | 5.00 | 0.00 |" in text
    measured.update(since="This changed.", changed={"wmt": ["ours"]})
    text = count.report(found, averages, measured)
    assert "This changed." in text and "| wmt | ours | 0.00" not in text
    assert "| launches, wmt | at most 0.5 | 0.25 of plain | met |" in text
    assert "| launches, lm-6144 | at most 0.5 | 1.00 of plain | missed |" in text


@pytest.mark.parametrize("name", ["wmt", "beam"])
@pytest.mark.parametrize("side", ["ours", "plain"])
def test_what_is_counted_can_be_run(name, side):
    with tiny(name).running(side, counted.Place("cpu", lambda tensor: tensor)) as step:
        for _ in range(3):
            step()
