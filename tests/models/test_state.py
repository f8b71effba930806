"""A streaming state, continued, saved, restored or forked, predicts as the text itself does."""

import copy
import pickle

import pytest
import torch
from helpers import TINY, assert_close, make_model, randint, scatter
from safetensors.torch import load_file, save_file

from fairseq_mega import TextState
from fairseq_mega.models.state import InterruptedReadError
from fairseq_mega.modules.packed import pack_linear_layers_

CHUNK, LENGTH, WORDS = 4, 41, 20
PIECES = ([1] * LENGTH, [LENGTH], [3, 1, 0, 20, 17], [8, 8, 8, 8, 8, 1], [4, 12, 25], [0, 40, 1])


def make(chunk=CHUNK, seed=0, **options):
    options = {"decoder_chunk_size": chunk, "truncation_length": 0, **options}
    return scatter(make_model(TINY["mega_lm"], **options), seed)


def text(batch=1, length=LENGTH, seed=5):
    return randint(4, WORDS, (batch, length), seed)


@torch.no_grad()
def parallel(model, tokens):
    """Log-probabilities of the tokens (B, T), and of all words after the last (B, V)."""
    eos = torch.full((len(tokens), 1), model.decoder.dictionary.eos())
    output = model(torch.cat([eos, tokens], dim=1))
    log_probs = model.get_normalized_probs(output, log_probs=True)  # (B, 1 + T, V)
    return log_probs[:, :-1].gather(2, tokens.unsqueeze(2)).squeeze(2), log_probs[:, -1]


def read(state, tokens, sizes):
    assert sum(sizes) == tokens.size(1)
    return torch.cat([state.read(piece) for piece in tokens.split(sizes, dim=1)], dim=1)


def reload(saved, folder):
    """The state from a file that torch loads as tensors and containers only; its safetensors file
    holds the same."""
    torch.save(saved, folder / "state.pt")
    save_file(saved, folder / "state.safetensors")
    again = torch.load(folder / "state.pt", weights_only=True)
    on_cpu = {name: value.cpu() for name, value in again.items()}
    assert_same(load_file(folder / "state.safetensors"), on_cpu)
    return again


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function, bias", [("softmax", "simple"), ("relu2", "rotary"), ("laplace", "simple")]
)
def test_pieces_of_any_size_equal_one_parallel_pass(function, bias):
    model = make(rel_pos_bias=bias, attention_activation_fn=function)
    tokens = text(batch=2)
    scores, following = parallel(model, tokens)
    for sizes in PIECES:
        state = model.start(batch=2)
        assert_close(read(state, tokens, sizes), scores, 1e-5)
        assert_close(state.predict(), following, 1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"chunk": 1, "checkpoint_activations": True},
        {"chunk": 7, "normalize_before": True},
        {"chunk": 3, "decoder_chunks_before": 2},
        {"decoder_chunks_before": 1, "rel_pos_bias": "rotary"},
        {"adaptive_softmax_cutoff": "8,14", "criterion_name": "adaptive_loss"},
    ],
    ids=str,
)
def test_reading_with_other_options(options, tmp_path):
    options = {"adaptive_softmax_factor": 2.0, **options}
    model, tokens = make(**options), text()
    scores, following = parallel(model, tokens)
    state = model.start()
    assert_close(state.read(tokens[:, :10]), scores[:, :10], 1e-5)
    state = model.restore(reload(state.save(), tmp_path))
    assert_close(state.read(tokens[:, 10:]), scores[:, 10:], 1e-5)
    assert_close(state.predict(), following, 1e-5)


# --- saving and restoring -----------------------------------------------------------------------


@pytest.mark.parametrize("length", (0, 4, 18))
@pytest.mark.parametrize("before", (0, 1))
def test_a_restored_state_continues(before, length, tmp_path):
    model, tokens = make(decoder_chunks_before=before), text(batch=2)
    state = model.start(batch=2)
    state.read(tokens[:, :length])
    saved = reload(state.save(), tmp_path)
    rest, sizes = tokens[:, length:], [1, LENGTH - length - 1]  # a single step changes h in place
    expected = read(state, rest, sizes)

    again = copy.deepcopy(model)  # as in another process, with the same weights
    for _ in range(2):  # a restored state does not change the saved one
        restored = again.restore(saved)
        assert isinstance(restored, TextState)
        assert_same(restored.save(), saved)
        assert torch.equal(read(restored, rest, sizes), expected)
        assert torch.equal(restored.predict(), state.predict())
    assert all(isinstance(value, torch.Tensor) for value in saved.values())


@pytest.mark.parametrize(
    "batch, dtype, before",
    [(1, torch.float64, 0), (3, torch.float32, 0), (1, torch.bfloat16, 0), (2, torch.float32, 2)],
    ids=str,
)
def test_the_size_does_not_depend_on_the_text(batch, dtype, before):
    """Each row has layers (D N + (P + 1) C (Z + H)) + D values, the EMA's in float32 at least."""
    model = make(decoder_chunks_before=before).to(dtype)
    layers, d, n, z, h = 2, 12, 3, 4, 16
    ema = torch.promote_types(dtype, torch.float32).itemsize
    cache = (before + 1) * CHUNK * (z + h) * dtype.itemsize
    size = batch * (layers * (d * n * ema + cache) + d * dtype.itemsize)
    state = model.start(batch)
    for length in (0, 1, 2, 1, 30, 200):
        state.read(text(batch, length))
        assert state.nbytes == size


@pytest.mark.parametrize("before", (0, 1))
def test_reading_keeps_nothing_but_the_state(before, monkeypatch):
    """The bytes that a state refers to are bounded: buffers have room for up to two chunks, and no
    copies of weights are among them."""
    monkeypatch.setattr("fairseq_mega.modules.packed.LEAST_PACKED", 1)
    model, sizes = make(chunk=32, decoder_chunks_before=before).float(), []
    pack_linear_layers_(model)
    state = model.start()
    for length in (70, 300, 1, 63, 500):
        state.read(text(length=length))
        sizes.append(len(pickle.dumps(state._state)))  # with the unused memory of its buffers
    assert max(sizes) < 5 * state.nbytes
    assert sizes[-1] <= max(sizes[:2])


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1},
        {"attention_activation_fn": "laplace"},
        {"chunk": 8, "rel_pos_bias": "rotary"},
        {"decoder_chunks_before": 1, "rel_pos_bias": "rotary"},
        {"decoder_layers": 3},
        {"no_scale_embedding": True},
    ],
    ids=str,
)
def test_states_of_another_model_are_refused(options):
    bias = {name: value for name, value in options.items() if name == "rel_pos_bias"}
    saved = make(**bias).start().save()
    with pytest.raises(ValueError, match="state is of another model"):
        make(**options).restore(saved)


def test_damaged_states_are_refused():
    model = make()
    saved = model.start().save()
    with pytest.raises(ValueError, match=r"not a saved TextState: it holds \['model'\]"):
        model.restore({"model": {}})
    for change in ({"h": saved["h"][:, :, :-1]}, {"keys": saved["keys"].repeat(1, 2, 1, 1)}):
        with pytest.raises(ValueError, match=f"damaged: {next(iter(change))} must be"):
            model.restore({**saved, **change})


# --- forks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", (2, 8))
def test_forks_are_independent(length):
    """Forks do not change each other or their parent."""
    model, start = make(), text(length=length)
    state = model.start()
    state.read(start)
    saved = state.save()
    *forks, untouched = state.fork(4)
    endings = [text(length=n, seed=n) for n in (1, 9, 30)]
    # Interleaved, piece by piece, so that a shared tensor would show.
    scores = [[], [], []]
    for i in range(30):
        for fork, ending, result in zip(forks, endings, scores):
            result.append(fork.read(ending[:, i : i + 1]))
    for fork, ending, result in zip(forks, endings, scores):
        expected, following = parallel(model, torch.cat([start, ending], dim=1))
        assert_close(torch.cat(result, dim=1), expected[:, length:], 1e-5)
        assert_close(fork.predict(), following, 1e-5)
    assert_same(state.save(), saved)
    state.read(text(length=9))
    assert_same(untouched.save(), saved)


def assert_same(saved, expected):
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], expected[name]) for name in expected)


# --- bad input ----------------------------------------------------------------------------------


def test_models_without_chunks_or_in_training_have_no_state():
    with pytest.raises(ValueError, match="--decoder-chunk-size is -1.*no state of constant size"):
        make(chunk=-1).start()
    model = make()
    with pytest.raises(ValueError, match="batch is 0"):
        model.start(batch=0)
    state = model.start()
    saved = state.save()
    model.train()
    for use in (model.start, lambda: model.restore(saved), lambda: state.read(torch.tensor([[5]]))):
        with pytest.raises(ValueError, match="in training mode.*eval()"):
            use()


@pytest.mark.parametrize(
    "tokens, says",
    [
        (torch.tensor([5, 6]), r"shape \(1, any length\).*but are torch.int64 of shape \(2,\)"),
        (torch.tensor([[5], [6]]), r"\(1, any length\).*of shape \(2, 1\)"),
        (torch.tensor([[5.0]]), "must be int64.*are torch.float32"),
        (torch.tensor([[5, 1]]), r"not padding \(1\), but one is 1"),
        (torch.tensor([[5, 20]]), "from 0 to 19.*but one is 20"),
        (torch.tensor([[-1]]), "from 0 to 19.*but one is -1"),
    ],
    ids=str,
)
def test_tokens_that_cannot_be_read_leave_the_state_unchanged(tokens, says):
    state = make().start()
    state.read(text(length=5))
    saved = state.save()
    with pytest.raises(ValueError, match=says):
        state.read(tokens.to(torch.get_default_device()))
    assert_same(state.save(), saved)


# --- interruptions, inference mode --------------------------------------------------------------


class Failing:
    """Makes a call of a layer fail, after so many that succeed."""

    def __init__(self, layer, call, error):
        self.left, self.error = call, error
        self.handle = layer.register_forward_hook(self)

    def __call__(self, *_):
        self.left -= 1
        if self.left < 0:
            self.handle.remove()
            raise self.error


@pytest.mark.parametrize(
    "part, call, error",
    [
        ("layers.0", 0, KeyboardInterrupt()),
        ("layers.1", 1, MemoryError()),
        ("embed_tokens", 0, RuntimeError("device")),
        ("output_projection", 0, KeyboardInterrupt()),
    ],
)
def test_an_interrupted_read_makes_the_state_unusable(part, call, error):
    """Any part of any segment may be interrupted; a state saved before can be restored."""
    model, tokens = make(normalize_before=True), text(length=30)
    state = model.start()
    state.read(tokens[:, :5])
    saved = state.save()
    Failing(model.decoder.get_submodule(part), call, error)
    with pytest.raises(type(error)):
        state.read(tokens[:, 5:])
    uses = lambda: state.read(tokens[:, 5:]), lambda: state.fork(1), state.predict, state.save
    for use in uses:
        with pytest.raises(InterruptedReadError, match="restore a saved one"):
            use()
    restored = model.restore(saved)
    expected, _ = parallel(model, tokens)
    assert_close(restored.read(tokens[:, 5:]), expected[:, 5:], 1e-5)


@pytest.mark.parametrize("arch", TINY)
@torch.no_grad()
def test_an_interrupted_step_of_decoding_makes_its_state_unusable(arch):
    model = make_model(TINY[arch])
    tokens, state = text(), {}
    source = model.encoder(text(length=5)) if arch == "mega" else None
    model.decoder(tokens[:, :3], encoder_out=source, incremental_state=state)
    Failing(model.decoder.layers[1], 0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        model.decoder(tokens[:, :4], encoder_out=source, incremental_state=state)
    with pytest.raises(InterruptedReadError):
        model.decoder(tokens[:, :4], encoder_out=source, incremental_state=state)
    with pytest.raises(InterruptedReadError):
        model.decoder.reorder_incremental_state_scripting(state, torch.tensor([0]))


@pytest.mark.parametrize("first, then", [(True, False), (False, True)])
def test_a_state_can_leave_and_enter_inference_mode(first, then):
    model, tokens = make(rel_pos_bias="rotary"), text()
    expected, following = parallel(model, tokens)
    with torch.inference_mode(first):
        state = model.start()
        scores = [state.read(tokens[:, :10])]
    with torch.inference_mode(then):
        fork = state.fork(1)[0]
        scores.append(state.read(tokens[:, 10:25]))
    with torch.inference_mode(first):
        scores.append(state.read(tokens[:, 25:]))
        assert_close(state.predict(), following, 1e-5)
    assert_close(torch.cat(scores, dim=1), expected, 1e-5)
    assert_close(read(fork, tokens[:, 10:], [1, LENGTH - 11]), expected[:, 10:], 1e-5)
    model.train()(tokens)[0].sum().backward()  # nothing that training uses was made there
