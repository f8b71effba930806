"""--compile-layers: few graphs for batches of any shape, the losses of the eager layers, and no
compilation in beam search."""

import functools

import pytest
import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq.sequence_generator import SequenceGenerator
from helpers import TINY, assert_close, batch_of, build, make_dictionary, sentences
from omegaconf import OmegaConf
from torch import nn
from torch._dynamo.utils import counters

pytestmark = pytest.mark.cpu_only
SHAPES = [(3, 9), (2, 17), (5, 30), (4, 12), (3, 25), (6, 14)]


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    """Traces layers as for torch's own compiler, but runs the graph as it is, which is quick."""
    torch._dynamo.reset()
    compile = functools.partialmethod(nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(nn.Module, "compile", compile)
    counters.clear()


def graphs():
    return counters["stats"]["unique_graphs"]


def batches(arch):
    """Batches of different shapes, some without padding."""
    for seed, (rows, length) in enumerate(SHAPES):
        lengths = [length - i % 3 * (seed % 2) for i in range(rows)]
        target = batch_of(sentences(*lengths, seed=seed))
        source = batch_of(sentences(*reversed(lengths), seed=seed + 9), left_pad=True)
        yield (source, None, target) if arch == "mega" else (target,)


def losses(model, arch):
    found = []
    for batch in batches(arch):
        loss = model(*batch)[0].logsumexp(-1).mean()
        loss.backward()
        found.append(loss.detach())
    return torch.stack(found), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "arch, chunk, before",
    [("mega", -1, 0), ("mega_lm", -1, 0), ("mega_lm", 8, 0), ("mega_lm", 4, 1)],
)
def test_an_epoch_of_batches_compiles_each_kind_of_layer_twice_at_most(arch, chunk, before):
    options = dict(dropout=0.0, decoder_chunk_size=chunk, rel_pos_bias="rotary", encoder_z_dim=8)
    options["decoder_chunks_before"] = before
    if arch == "mega_lm":
        options.pop("encoder_z_dim")
    models = []
    for flag in (False, True):
        torch.manual_seed(1)
        models.append(build(TINY[arch], compile_layers=flag, **options).train())
    expected, gradients = losses(models[0], arch)
    assert graphs() == 0
    found, compiled_gradients = losses(models[1], arch)
    assert 1 <= graphs() <= (4 if arch == "mega" else 2)  # kinds: encoder and decoder layers
    assert_close(found, expected, 1e-5)
    for name, gradient in gradients.items():
        assert_close(compiled_gradients[name], gradient, 1e-5, name, floor=1e-2)
    assert models[1].state_dict().keys() == models[0].state_dict().keys()


def test_beam_search_never_compiles():
    """Compiled layers run eagerly in validation, which reads the source, and after a checkpoint has
    been loaded for generation."""
    model = build(TINY["mega"], compile_layers=True, dropout=0.0).eval()
    words = make_dictionary(20)
    sample = {"net_input": {"src_tokens": batch_of(sentences(7, 4)), "src_lengths": None}}
    sample["net_input"]["src_lengths"] = torch.tensor([7, 4])
    with torch.no_grad():
        model.encoder(**{"src_tokens": sample["net_input"]["src_tokens"]})
    before = graphs()
    assert before > 0
    generator = SequenceGenerator([model], words, beam_size=3, max_len_b=9)
    hypotheses = generator.generate([model], sample)
    assert graphs() == before

    torch._dynamo.reset()
    counters.clear()
    loaded = build(TINY["mega"], compile_layers=True, dropout=0.0).eval()
    loaded.load_state_dict(model.state_dict())
    loaded.prepare_for_inference_(OmegaConf.structured(FairseqConfig))
    again = SequenceGenerator([loaded], words, beam_size=3, max_len_b=9).generate([loaded], sample)
    assert graphs() == 0
    for row, expected in zip(again, hypotheses):
        assert [h["tokens"].tolist() for h in row] == [h["tokens"].tolist() for h in expected]
