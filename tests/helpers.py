"""Shared helpers: build modules with telling weights, compare results, run in segments."""

import copy
import inspect
import itertools
import shlex
import warnings
from functools import cache
from pathlib import Path

import fairseq.options
import pytest
import torch
from fairseq.data import Dictionary
from fairseq.data.data_utils import collate_tokens
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.translation import TranslationTask
from omegaconf import DictConfig
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_mega import MegaLanguageModelingTask
from fairseq_mega.modules import (
    GatedCrossAttention,
    MovingAverageGatedAttention,
    MultiHeadEMA,
    NormalizedFeedForwardNetwork,
)
from fairseq_mega.modules.state import LayerState

# By what Linux says of the processor, not by the package's own probe: that is to find it there.
PROCESSOR = Path("/proc/cpuinfo")
needs_int8 = pytest.mark.skipif(
    not PROCESSOR.exists() or "vnni" not in PROCESSOR.read_text(),
    reason="this processor has no VNNI for int8 products",
)

FUNCTIONS = ("softmax", "relu2", "laplace")
BIASES = ("simple", "rotary")
NORMS = ("layernorm", "scalenorm", "rmsnorm", "batchnorm", "syncbatchnorm")

GATED = {
    "embed_dim": 6,
    "zdim": 4,
    "hdim": 8,
    "ndim": 3,
    "chunk_size": -1,
    "chunks_before": 0,
    "truncation": None,
    "norm_type": "layernorm",
    "prenorm": True,
    "rel_pos_bias": "simple",
    "max_positions": 64,
    "activation": "silu",
    "attention_activation": "softmax",
    "bidirectional": False,
}
CROSS = {
    "embed_dim": 6,
    "zdim": 4,
    "norm_type": "layernorm",
    "prenorm": True,
    "rel_pos_bias": "simple",
    "max_positions": 64,
    "activation": "silu",
    "attention_activation": "softmax",
}
FEED_FORWARD = {
    "embed_dim": 6,
    "ffn_hidden_dim": 10,
    "norm_type": "layernorm",
    "prenorm": True,
    "activation": "silu",
}


def pairwise(**choices):
    """Parametrises a test with few cases in which any two parameters take all pairs of values.

    Each case is the one of the full product that has most of the pairs still missing. Parameters
    that the test does not name reach it in the dictionary `options`.
    """

    def pairs_of(case):  # of places in `choices`, as values need no hash
        return set(itertools.combinations(enumerate(case), 2))

    product = list(itertools.product(*(range(len(values)) for values in choices.values())))
    missing, cases = set().union(*map(pairs_of, product)), []
    while missing:
        best = max(product, key=lambda case: len(missing & pairs_of(case)))
        missing -= pairs_of(best)
        cases.append({name: choices[name][i] for name, i in zip(choices, best)})

    def parametrise(test):
        named = [name for name in inspect.signature(test).parameters if name in choices]
        rest = [name for name in choices if name not in named]
        rows = [[case[name] for name in named] for case in cases]
        if rest:
            rows = [[*row, {name: case[name] for name in rest}] for row, case in zip(rows, cases)]
        # Workers must agree on the names: not with the address of a function in them.
        ids = ["-".join(getattr(v, "__name__", str(v)) for v in case.values()) for case in cases]
        return pytest.mark.parametrize(named + ["options"] * bool(rest), rows, ids=ids)(test)

    return parametrise


def scatter(module, seed=0):
    """Gives every parameter and statistic a value of order one.

    As initialised, attention is almost uniform and most terms are almost zero, so that a wrong term
    would hide in the tolerance.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if not value.is_floating_point():
                continue
            noise = torch.randn(
                value.shape, generator=generator, dtype=torch.float64, device="cpu"
            ).to(value.device)
            if name.endswith("running_var"):
                noise = noise.abs() + 0.5
            elif name.endswith(("_proj.weight", "fc1.weight", "fc2.weight")):
                noise = noise / value.size(-1) ** 0.5
            value.copy_(noise)
    return module


def make_ema(embed_dim=4, ndim=3, dtype=torch.float64, **options):
    return scatter(MultiHeadEMA(embed_dim, ndim, **options)).to(dtype).eval()


def make_gated(dtype=torch.float64, **options):
    """The module, in evaluation, and its config."""
    config = {**GATED, **options}
    return scatter(MovingAverageGatedAttention(**config)).to(dtype).eval(), config


def make_cross(dtype=torch.float64, **options):
    config = {**CROSS, **options}
    return scatter(GatedCrossAttention(**config)).to(dtype).eval(), config


def make_feed_forward(dtype=torch.float64, **options):
    config = {**FEED_FORWARD, **options}
    return scatter(NormalizedFeedForwardNetwork(**config)).to(dtype).eval(), config


def tensors_of(module):
    """Parameters and buffers by name, as tests/reference.py takes them."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def randn(*shape, seed=1, dtype=torch.float64, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")
    return values.to(torch.get_default_device(), dtype).requires_grad_(requires_grad)


def randint(low, high, shape, seed=1):
    """Random integers, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(low, high, shape, generator=generator, device="cpu")
    return values.to(torch.get_default_device())


def autocast(dtype=torch.bfloat16, enabled=True):
    """Autocast where the tests' tensors are."""
    return torch.autocast(torch.get_default_device().type, dtype, enabled=enabled)


def padding(length, lengths, left=False):
    """A (B, L) padding mask for sentences of these lengths."""
    mask = torch.arange(length).unsqueeze(0) >= torch.tensor(lengths).unsqueeze(1)
    return mask.flip(1) if left else mask


def relative_error(actual, expected, floor=1.0):
    """The largest difference over the largest expected value, or over `floor` if that is larger.

    The floor is for gradients that are zero but for rounding, such as that of a bias on all keys
    under a softmax.
    """
    assert actual.shape == expected.shape
    if expected.numel() == 0:
        return 0.0
    scale = max(expected.abs().max().item(), floor)
    return (actual - expected).abs().max().item() / scale


def assert_close(actual, expected, tolerance=1e-9, what="output", floor=1.0):
    error = relative_error(actual, expected, floor)
    assert error <= tolerance, f"{what}: relative error {error:.1e} > {tolerance:.0e}"


def assert_same_function(fast, slow, leaves, keep=None, tolerance=1e-9):
    """Two outputs (B, L, D) of the same leaves agree, and so do all their gradients.

    `keep` (B, L) is True at the positions that mean something; the others get no gradient.
    """
    if keep is None:
        keep = torch.ones(fast.shape[:2], dtype=torch.bool)
    assert fast.shape == slow.shape and torch.isfinite(fast).all()
    assert_close(fast[keep], slow[keep], tolerance)
    grad_y = randn(*fast.shape, seed=7) * keep.unsqueeze(-1)
    names, tensors = zip(*leaves.items())
    ours = torch.autograd.grad(fast, tensors, grad_y, allow_unused=True)
    theirs = torch.autograd.grad(slow, tensors, grad_y, allow_unused=True)
    for name, a, b in zip(names, ours, theirs):
        assert (a is None) == (b is None), f"gradient of {name}: {a} and {b}"
        if b is not None:
            assert_close(a, b, tolerance, f"gradient of {name}")


class Storages(TorchDispatchMode):
    """Notes the memory of all tensors that are made, without keeping it."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        return out

    def kept(self):
        return sum(size for storage, size in self.storages.values() if not storage.expired())


class Operators(TorchDispatchMode):
    """Notes the names of all operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def first(result):
    """The output of a module that may also return weights."""
    return result[0] if isinstance(result, tuple) else result


@torch.no_grad()
def run_segments(module, x, sizes, state=None):
    """The output for x (B, L, D) given in consecutive segments of these sizes."""
    assert sum(sizes) == x.size(1)
    state = LayerState() if state is None else state
    return torch.cat([first(module(part, state=state)) for part in x.split(sizes, 1)], dim=1)


def retain_dropout(module, names=None):
    """Applies fairseq's --retain-dropout to a model."""
    for name, part in module.named_modules():
        if part is not module and hasattr(part, "make_generation_fast_"):
            part.make_generation_fast_(name, retain_dropout=True, retain_dropout_modules=names)


# --- models, built as fairseq builds them -------------------------------------------------------

TASKS = {
    "translation": TranslationTask,
    "language_modeling": LanguageModelingTask,
    "mega_language_modeling": MegaLanguageModelingTask,
}
SIZES = {"embed-dim": 12, "hidden-dim": 16, "ffn-embed-dim": 20, "z-dim": 4, "n-dim": 3}
TINY = {
    "mega": "--arch mega --encoder-layers 2 --max-source-positions 32 --max-target-positions 32 "
    + " ".join(f"--encoder-{name} {size}" for name, size in SIZES.items()),
    "mega_lm": "--arch mega_lm --task language_modeling --decoder-layers 2 --tokens-per-sample 32 "
    + " ".join(f"--decoder-{name} {size}" for name, size in SIZES.items()),
}


@cache
def parse(options):
    """fairseq's configuration for these options of fairseq-train; not to be changed.

    fairseq's own way, through hydra, takes half a second. Here the defaults of each task and
    architecture take it, and options of other parts than those; the others are set in a copy.
    """
    args = arguments(options)
    parts = {"task": args.task, "criterion": args.criterion, "arch": args.arch}
    plain = " ".join(f"--{part} {name}" for part, name in parts.items() if name)
    cfg, defaults = parse_with_hydra(plain), vars(arguments(plain))
    given = {name for name, value in vars(args).items() if value != defaults.get(name)}
    if not all(isinstance(part, DictConfig) for part in (cfg.task, cfg.model)):
        return parse_with_hydra(options)
    own = {*cfg.task, *cfg.model}
    for name, part in cfg.items():
        if isinstance(part, DictConfig) and name not in ("task", "model"):
            own -= {*part}  # which a task only mirrors
    if given - own:
        return parse_with_hydra(options)
    cfg = copy.deepcopy(cfg)
    for part in (cfg.task, cfg.model):
        for name in given.intersection(part):
            part[name] = getattr(args, name)
    return cfg


@cache
def parse_with_hydra(options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hydra's, about how fairseq uses it
        return convert_namespace_to_omegaconf(arguments(options))


@cache
def arguments(options):
    parser = fairseq.options.get_training_parser()
    return fairseq.options.parse_args_and_arch(parser, ["data", *shlex.split(options)])


def make_dictionary(words):
    """A dictionary of ``words`` entries, including the four special ones."""
    dictionary = Dictionary()
    for i in range(words - len(dictionary)):
        dictionary.add_symbol(f"w{i}")
    return dictionary


def configured(options, **model_options):
    """A copy of the configuration of these options, with further ones of the model by their names:
    parsing costs more than building."""
    cfg = copy.deepcopy(parse(options))
    for name, value in model_options.items():
        setattr(cfg.model, name, value)
    return cfg


def build(options, words=20, target_words=None, **model_options):
    """The model that fairseq-train would build for these options; see `configured`."""
    cfg = configured(options, **model_options)
    source = make_dictionary(words)
    target = source if target_words is None else make_dictionary(target_words)
    model = TASKS[cfg.task._name](cfg.task, source, target).build_model(cfg.model)
    return model.to(torch.get_default_device())


def make_model(options, **kwargs):
    """The model of `build` in float64 and evaluation, with telling weights."""
    return scatter(build(options, **kwargs)).double().eval()


def sentences(*lengths, words=20, seed=3):
    """Token ids (L,) of random sentences that end as fairseq's do."""
    generator = torch.Generator().manual_seed(seed)
    eos = torch.tensor([make_dictionary(words).eos()], device="cpu")
    rows = []
    for length in lengths:
        ids = torch.randint(4, words, (length - 1,), generator=generator, device="cpu")
        rows.append(torch.cat([ids, eos]).to(torch.get_default_device()))
    return rows


def batch_of(rows, left_pad=False):
    """The rows as fairseq pads them: (B, L)."""
    return collate_tokens(rows, pad_idx=make_dictionary(4).pad(), left_pad=left_pad)
