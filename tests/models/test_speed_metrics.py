"""The FLOPs in the log, compared with torch's counter of products."""

import copy

import pytest
from fairseq.logging import metrics
from helpers import TINY, batch_of, build, sentences
from torch.utils.flop_counter import FlopCounterMode

LARGER = {"embed_dim": 64, "hidden_dim": 128, "ffn_embed_dim": 96, "z_dim": 32, "n_dim": 1}


@pytest.mark.parametrize("options", ["", "--checkpoint-activations"])
@pytest.mark.parametrize("chunk, before", [(-1, 0), (16, 0), (8, 1)])
@pytest.mark.parametrize("arch", TINY)
def test_flops_are_those_of_the_products(arch, chunk, before, options):
    """Formula and counter differ by the EMA, norms and biases: 5% in so small a model."""
    larger = {
        f"{side}_{name}": size
        for side in (("encoder", "decoder") if arch == "mega" else ("decoder",))
        for name, size in {**LARGER, "chunk_size": chunk, "chunks_before": before}.items()
    }
    model = build(
        f"{TINY[arch]} {options}", words=500, rel_pos_bias="rotary", peak_tflops=1.0, **larger
    )
    model = copy.deepcopy(model).train()  # as fairseq's --store-ema
    source, target = (batch_of(sentences(n, n, words=500)) for n in (48, 64))
    inputs = {"src_tokens": target}
    if arch == "mega":
        inputs = {"src_tokens": source, "src_lengths": None, "prev_output_tokens": target}
    with metrics.aggregate(new_root=True) as logged, FlopCounterMode(display=False) as counter:
        model(**inputs)
        model(**inputs)  # gradients of two batches are accumulated
        model.eval()(**inputs)
    forward = counter.get_total_flops() / 3
    assert logged["_flops"].sum == pytest.approx(2 * 3 * forward, rel=0.05)
    assert logged.get_smoothed_values() == {"tflops": None, "mfu": None}  # no update yet


def test_without_the_option_nothing_is_counted():
    for arch in TINY:
        assert not build(TINY[arch])._forward_pre_hooks
