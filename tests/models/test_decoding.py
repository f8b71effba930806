"""Reading a target at once, token by token or in segments gives the same scores and attention."""

import pytest
import torch
from fairseq.models.transformer import TransformerEncoder
from helpers import TINY, assert_close, batch_of, make_model, randint, sentences
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_mega.models.state import KEY

LENGTH = 13
SOURCE = (5, 9, 2)

archs = pytest.mark.parametrize("arch", TINY)
chunks = pytest.mark.parametrize("chunk", (-1, 1, 4))
CUTS = ([1] * LENGTH, [LENGTH], [6, 1, 1, 5], [4, 4, 5], [3, 9, 1])


def encode(model, arch):
    """The encoder's output, or None without an encoder."""
    return model.encoder(batch_of(sentences(*SOURCE), left_pad=True)) if arch == "mega" else None


def targets(rows, length=LENGTH, seed=4):
    return randint(4, 20, (rows, length), seed)


def decode(model, tokens, cuts, encoder_out, state=None, start=0):
    """Scores and attention of the tokens after `start`, read in segments as fairseq reads them."""
    state = {} if state is None else state
    parts, attention = [], []
    for size in cuts:
        start += size
        scores, extra = model.decoder(
            tokens[:, :start], encoder_out=encoder_out, incremental_state=state
        )
        assert scores.size(1) == size
        parts.append(scores)
        attention.append(extra["attn"][0])
    assert start == tokens.size(1)
    attention = None if attention[0] is None else torch.cat(attention, dim=1)
    return torch.cat(parts, dim=1), attention


@torch.no_grad()
def check_decoding(arch, all_cuts=CUTS, **options):
    # The EMA's truncation is of the parallel form alone: there is none here.
    model = make_model(TINY[arch], truncation_length=0, **options)
    encoder_out, tokens = encode(model, arch), targets(len(SOURCE))
    expected, extra = model.decoder(tokens, encoder_out=encoder_out)
    for cuts in all_cuts:
        scores, attention = decode(model, tokens, cuts, encoder_out)
        assert_close(scores, expected, what=f"scores in segments {cuts}")
        if arch == "mega":
            assert_close(attention, extra["attn"][0], what=f"attention in segments {cuts}")


@archs
@pytest.mark.parametrize(
    "chunk, bias, function",
    [
        (-1, "simple", "softmax"),
        (-1, "rotary", "laplace"),
        (1, "simple", "relu2"),
        (1, "rotary", "softmax"),
        (4, "simple", "laplace"),
        (4, "rotary", "relu2"),
    ],
)
def test_incremental_equals_parallel(arch, chunk, bias, function):
    check_decoding(
        arch, decoder_chunk_size=chunk, rel_pos_bias=bias, attention_activation_fn=function
    )


@archs
@pytest.mark.parametrize(
    "options",
    [
        {"normalize_before": True, "share_decoder_input_output_embed": True},
        {"normalize_embedding": True, "decoder_input_dim": 6, "decoder_ffn_embed_dim": 0},
        {"normalization_type": "batchnorm", "no_scale_embedding": True},
        {"decoder_chunks_before": 1, "attention_activation_fn": "laplace"},
    ],
    ids=str,
)
def test_incremental_equals_parallel_with_other_options(arch, options):
    check_decoding(arch, CUTS[::2], decoder_chunk_size=4, **options)


@archs
@chunks
@torch.no_grad()
def test_reordering_the_state_equals_rereading_the_reordered_tokens(arch, chunk):
    """Beam search drops, swaps and repeats hypotheses between steps."""
    model = make_model(TINY[arch], truncation_length=0, decoder_chunk_size=chunk)
    encoder_out, tokens, state = encode(model, arch), targets(len(SOURCE)), {}
    read = 0
    for turn, (order, cuts) in enumerate(
        [([0, 1, 2], [5]), ([2, 0, 0, 1], [1]), ([3, 1, 1, 0, 2], [1, 1]), ([4, 0], [3])]
    ):
        order = torch.tensor(order)
        if turn:
            model.decoder.reorder_incremental_state_scripting(state, order)
            tokens = tokens.index_select(0, order)
            if encoder_out is not None:
                encoder_out = model.encoder.reorder_encoder_out(encoder_out, order)
        tokens[:, read:] = targets(len(order), LENGTH - read, seed=10 + turn)
        size = read + sum(cuts)
        scores, attention = decode(model, tokens[:, :size], cuts, encoder_out, state, read)
        expected, extra = model.decoder(tokens[:, :size], encoder_out=encoder_out)
        assert_close(scores, expected[:, read:])
        if arch == "mega":
            assert_close(attention, extra["attn"][0][:, read:])
        read = size


@torch.no_grad()
def test_the_layer_of_the_attention_can_be_chosen():
    model = make_model(TINY["mega"])
    encoder_out, tokens = encode(model, "mega"), targets(len(SOURCE))
    by_layer = [
        model.decoder(tokens, encoder_out=encoder_out, alignment_layer=i)[1]["attn"][0]
        for i in range(2)
    ]
    last = model.decoder(tokens, encoder_out=encoder_out)[1]["attn"][0]
    assert torch.equal(by_layer[1], last) and not torch.allclose(by_layer[0], last)


@torch.no_grad()
def test_padding_before_the_tokens_is_not_seen():
    """Padding is hidden in any segments, as in parallel."""
    model = make_model(TINY["mega_lm"], truncation_length=0)
    tokens = targets(len(SOURCE))
    tokens[0, :3] = tokens[1, :1] = model.decoder.padding_idx
    expected, _ = model.decoder(tokens)
    keep = tokens.ne(model.decoder.padding_idx)
    for cuts in ([1] * LENGTH, [2, LENGTH - 2], [5, 1, LENGTH - 6]):
        scores, _ = decode(model, tokens, cuts, None)
        assert_close(scores[keep], expected[keep])


# --- beam search on a device --------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Counts host-device synchronisations: values of tensors that are read on the host."""

    READS = ("_local_scalar_dense", "equal", "nonzero", "is_nonzero", "unique")

    def __init__(self, monkeypatch):
        super().__init__()
        self.found = []
        original = torch.Tensor.tolist

        def tolist(tensor):  # once, however many operations it is made of
            found, result = [*self.found, "tolist"], original(tensor)
            self.found = found
            return result

        monkeypatch.setattr(torch.Tensor, "tolist", tolist)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        moved = name == "_to_copy" and (kwargs or {}).get("device") is not None
        if moved or name.startswith(self.READS):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("arch, beam", [("mega", 3), ("mega_lm", 1)])
@pytest.mark.parametrize(
    "order, mixes",
    [
        ([0, 1, 1, 3, 5, 4], False),
        ([5, 4, 3, 0, 0, 1], False),
        ([3, 3, 5], False),
        ([0, 3, 1, 1, 4, 5], True),
    ],
)
@torch.no_grad()
def test_a_step_waits_at_most_twice_for_the_device(arch, beam, order, mixes, monkeypatch):
    """Synchronisations do not grow with the number of layers, whether hypotheses stay, swap, leave
    or mix."""
    model = make_model(TINY[arch], decoder_layers=4, rel_pos_bias="rotary")
    source = None
    if arch == "mega":
        source = model.encoder(batch_of(sentences(5, 9), left_pad=True))
        source = model.encoder.reorder_encoder_out(source, torch.tensor([0, 0, 0, 1, 1, 1]))
    tokens, state = targets(6), {}
    for end in (1, 2):
        model.decoder(tokens[:, :end], encoder_out=source, incremental_state=state)
    order = torch.tensor(order)
    with Waits(monkeypatch) as waits:
        model.decoder.reorder_incremental_state_scripting(state, order)
        if source is not None:
            source = model.encoder.reorder_encoder_out(source, order)
        tokens = tokens.index_select(0, order)
        logits, _ = model.decoder(tokens[:, :3], encoder_out=source, incremental_state=state)
    assert 1 <= len(waits.found) <= 2, waits.found
    assert torch.isfinite(logits).all()
    assert model.decoder.get_incremental_state(state, KEY).beam == (1 if mixes else beam)


@torch.no_grad()
def test_the_output_of_a_stock_encoder_is_accepted():
    """The output of a fairseq encoder lacks our keys: its sentences are moved when they are
    reordered."""
    model = make_model(TINY["mega"], truncation_length=0)
    rows = sentences(*SOURCE)
    ours = model.encoder(batch_of(rows))
    stock = {name: ours[name] for name in ("encoder_out", "encoder_padding_mask")}
    stock |= {name: [] for name in ("encoder_embedding", "encoder_states")}
    stock |= {name: [] for name in ("src_tokens", "src_lengths")}
    tokens, beam = targets(len(SOURCE)), torch.arange(3).repeat_interleave(2)
    expected, _ = model.decoder(tokens, encoder_out=ours)
    assert_close(model.decoder(tokens, encoder_out=stock)[0], expected)
    assert_close(decode(model, tokens, [1] * LENGTH, stock)[0], expected)

    stock = TransformerEncoder.reorder_encoder_out(None, stock, beam)
    tokens, state = targets(6), {}
    expected, _ = model.decoder(tokens, encoder_out=stock)
    first, _ = decode(model, tokens[:, :4], [1] * 4, stock, state)
    assert_close(first, expected[:, :4])
    order = torch.tensor([1, 1, 2, 4, 5, 0])
    model.decoder.reorder_incremental_state_scripting(state, order)
    stock = TransformerEncoder.reorder_encoder_out(None, stock, order)
    tokens = tokens.index_select(0, order)
    expected, _ = model.decoder(tokens, encoder_out=stock)
    assert_close(decode(model, tokens, [1] * 9, stock, state, 4)[0], expected[:, 4:])


@archs
@torch.no_grad()
def test_tokens_that_were_read_and_other_rows_are_errors(arch):
    model = make_model(TINY[arch])
    encoder_out, tokens, state = encode(model, arch), targets(len(SOURCE)), {}
    decode(model, tokens[:, :4], [4], encoder_out, state)
    wrongs = {"4 tokens": tokens[:, :4], "2 tokens": tokens[:, :2], "2 rows": tokens[:2]}
    for what, wrong in wrongs.items():
        with pytest.raises(ValueError, match=f"prev_output_tokens has {what}"):
            model.decoder(wrong, encoder_out=encoder_out, incremental_state=state)
    expected, _ = model.decoder(tokens[:, :5], encoder_out=encoder_out)
    scores, _ = decode(model, tokens[:, :5], [1], encoder_out, state, 4)
    assert_close(scores, expected[:, 4:])


@archs
def test_a_reordered_state_leaves_inference_mode(arch):
    """A state made in inference mode works with gradients, and with padding."""
    model = make_model(TINY[arch], truncation_length=0)
    tokens, order = targets(len(SOURCE)), torch.tensor([1, 0, 2])
    if arch == "mega_lm":
        tokens[0, :2] = model.decoder.padding_idx
    with torch.inference_mode():
        encoder_out, state = encode(model, arch), {}
        for end in (3, 4):
            model.decoder(tokens[:, :end], encoder_out=encoder_out, incremental_state=state)
        model.decoder.reorder_incremental_state_scripting(state, order)
    encoder_out, tokens = encode(model, arch), tokens[order]
    if encoder_out is not None:
        encoder_out = model.encoder.reorder_encoder_out(encoder_out, order)
    expected, _ = model.decoder(tokens, encoder_out=encoder_out)
    scores, _ = model.decoder(tokens, encoder_out=encoder_out, incremental_state=state)
    keep = tokens[:, 4:].ne(model.decoder.padding_idx)
    assert scores.requires_grad
    assert_close(scores[keep], expected[:, 4:][keep])
