"""The options of a model by the names that ``config.py`` declares, and the rules between them."""

import math
import sys
from dataclasses import fields
from enum import Enum
from itertools import chain
from typing import Any, Dict, Iterator, List, Optional, Tuple

from ..modules.checks import check_rotary
from ..modules.norm import NORMS
from .config import EMA_LONGEST, MOST_FEATURES

MOST_POSITIONS = 10_000_000  # of a table
DEFAULT_POSITIONS = 1024  # of fairseq's models, for tasks without such an option
Rules = Iterator[Tuple[Any, str]]  # whether a rule is broken, and what the error says


class Options:
    """Reads and sets the options of a model by their declared names, whatever its published names.

    Args:
        cfg: fairseq's configuration of the model.
        config: the dataclass of ``config.py`` that it was made from.

    Raises:
        ValueError: at an option out of range; names the option, its value and what to do.
    """

    def __init__(self, cfg, config: type):
        self._cfg = cfg
        self._fixed: Dict[str, Any] = {}
        options = [each for each in fields(config) if not each.name.startswith("_")]
        self._published = {
            declared: each.name
            for each in options
            for declared in each.metadata.get("stands_for", [each.name])
        }
        for each in options:
            check, value = each.metadata.get("check"), cfg[each.name]
            if check is not None and value is not None:
                check(as_flag(each.name), value)

    def fix(self, **values) -> None:
        """Gives values to options that this kind of model does not have."""
        self._fixed.update(values)

    def __contains__(self, name: str) -> bool:
        return name in self._published or name in self._fixed

    def __getitem__(self, name: str) -> Any:
        value = self._fixed[name] if name in self._fixed else self._cfg[self._published[name]]
        return value.value if isinstance(value, Enum) else value

    def __setitem__(self, name: str, value: Any) -> None:
        self._cfg[self._published[name]] = value

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def get(self, name: str) -> Any:
        """The value; None if this kind of model does not have the option."""
        if name not in self:
            return None
        return self[name]

    def given(self, name: str) -> bool:
        """Tells whether an option is set: it is neither None nor False."""
        return self.get(name) not in (None, False)

    def default(self, name: str, value: Any) -> None:
        """Sets an option that was not given."""
        if self[name] is None:
            self[name] = value

    def flag(self, name: str) -> str:
        return as_flag(self._published.get(name, name))

    def named(self, name: str) -> str:
        """The option and its value, for errors: ``--z-dim is 5``."""
        value = self.get(name)
        shown = "not given" if value is None else "set" if value is True else value
        return f"{self.flag(name)} is {shown}"

    def both(self, name: str) -> str:
        """The option and its value within a sentence: ``--z-dim (5)``."""
        return f"{self.flag(name)} ({self[name]})"


def as_flag(option: str) -> str:
    return "--" + option.replace("_", "-")


# --- what follows from the options ----------------------------------------------------------------


def cutoffs(option: Optional[str]) -> Optional[List[int]]:
    """The numbers of ``--adaptive-softmax-cutoff`` or ``--adaptive-input-cutoff``."""
    return None if option is None else [int(point) for point in option.split(",")]


def longest_memory(o: Options) -> Optional[int]:
    """The longest initial memory of the EMA, in tokens; None for the published initial values."""
    if o.ema_init != "spread":
        return None
    return EMA_LONGEST if o.ema_longest is None else o.ema_longest


def longest_sequence(o: Options) -> int:
    """The longest sequence of an encoder: of the ``simple`` bias's table; else without limit."""
    limited = o.rel_pos_bias == "simple" and o.encoder_chunk_size < 0
    return o.max_source_positions if limited else sys.maxsize


def complete_positions(o: Options, *names: str) -> None:
    """Sets maximal positions that neither the user nor the task has given, as fairseq's models do,
    and rounds them up to what the task pads batches to."""
    multiple = o.get("required_seq_len_multiple") or 1
    for name in names:
        o.default(name, DEFAULT_POSITIONS)
        o[name] = -(-o[name] // multiple) * multiple


def complete_decoder_sizes(o: Options) -> None:
    """Sets the decoder's sizes that were not given: to the encoder's, the input to the model's."""
    sizes = "layers", "embed_dim", "hidden_dim", "ffn_embed_dim", "z_dim", "n_dim", "chunk_size"
    for size in sizes:
        o.default(f"decoder_{size}", o.get(f"encoder_{size}"))
    chunked = o.decoder_chunk_size > 0
    o.default("decoder_chunks_before", (chunked and o.get("encoder_chunks_before")) or 0)
    o.default("decoder_input_dim", o.decoder_embed_dim)


# --- rules ----------------------------------------------------------------------------------------

_ADAPTIVE = "(adaptive ones are tied by --tie-adaptive-weights)"
_SHARED = "share_decoder_input_output_embed"
# An option, another that excludes it, and why.
EXCLUDING = (
    ("compile_layers", "checkpoint_activations", "chooses by itself what is recomputed"),
    ("normalize_embedding", "normalize_before", "is for models that normalise after each sublayer"),
    ("adaptive_input", "decoder_embed_path", "has tables of several widths, which no file fills"),
    (_SHARED, "adaptive_softmax_cutoff", f"shares a full output projection {_ADAPTIVE}"),
    (_SHARED, "adaptive_input", f"needs one table of embeddings {_ADAPTIVE}"),
)
# An option, another that it needs, and why.
NEEDING = (
    ("no_final_norm", "normalize_before", "removes a norm that only pre-norm models have"),
    ("adaptive_input", "adaptive_input_cutoff", "needs cutoff points"),
    ("tie_adaptive_weights", "adaptive_input", "ties the adaptive softmax to the adaptive input"),
)
# An option, and two that must be equal with it.
EQUAL = (
    ("tie_adaptive_weights", "adaptive_softmax_cutoff", "adaptive_input_cutoff"),
    ("tie_adaptive_weights", "adaptive_softmax_factor", "adaptive_input_factor"),
    ("tie_adaptive_weights", "decoder_input_dim", "decoder_embed_dim"),
    (_SHARED, "decoder_input_dim", "decoder_embed_dim"),
    ("share_all_embeddings", "encoder_embed_dim", "decoder_input_dim"),
)


def check(o: Options, *more: Rules) -> None:
    """Checks the options together, once they are complete, and with ``more`` rules about the data.

    Raises:
        ValueError: names the option, its value and what to do.
    """
    for broken, text in chain(_pairs(o), *more, _tables(o), _criterion(o)):
        if broken:
            raise ValueError(text)


def _pairs(o: Options) -> Rules:
    for name, other, why in EXCLUDING:
        yield (
            o.given(name) and o.given(other),
            f"{as_flag(name)} {why}, but {o.named(other)}, by itself or by the architecture: leave "
            "one of the two out",
        )
    for name, other, why in NEEDING:
        yield (
            o.given(name) and not o.given(other),
            f"{as_flag(name)} {why}: give {as_flag(other)}, or leave it out",
        )
    for name, one, other in EQUAL:
        if o.given(name):
            yield (
                o[one] != o[other],
                f"{as_flag(name)} needs {o.both(one)} equal to {o.both(other)}",
            )
    for name in ("encoder_z_dim", "decoder_z_dim"):
        if o.rel_pos_bias == "rotary" and name in o:
            check_rotary(o.flag(name), o[name])
    for side in ("encoder", "decoder"):
        before, size = f"{side}_chunks_before", f"{side}_chunk_size"
        yield (
            before in o and o[before] > 0 > o[size],
            f"{o.named(before)}, but {o.named(size)}: give the size of a chunk, or leave "
            f"{o.flag(before)} out",
        )
    yield (
        o.ema_longest is not None and o.ema_init != "spread",
        f"{o.named('ema_longest')}, but {o.named('ema_init')}: give --ema-init spread, or leave "
        "--ema-longest out",
    )


def _tables(o: Options) -> Rules:
    """Sizes of tables of the ``simple`` bias: chunks, or all positions; cross attention has no
    chunks."""
    both = "encoder_layers" in o and "decoder_layers" in o
    for chunk, before, positions in (
        ("encoder_chunk_size", "encoder_chunks_before", "max_source_positions"),
        ("decoder_chunk_size", "decoder_chunks_before", "max_target_positions"),
    ):
        if o.rel_pos_bias != "simple" or chunk not in o:
            continue
        chunks = [chunk] if o[chunk] > 0 else []
        for name in chunks + ([positions] if positions in o and (both or not chunks) else []):
            yield (
                o[name] is None or not 0 < o[name] <= MOST_POSITIONS,
                f"{o.named(name)}, but --rel-pos-bias simple learns a number for each distance: "
                f"give the longest one, at most {MOST_POSITIONS}, or use --rel-pos-bias rotary",
            )
        yield (
            chunks and (o[before] + 1) * o[chunk] > MOST_POSITIONS,
            f"{o.named(before)}, but with chunks of {o[chunk]} --rel-pos-bias simple would learn a "
            f"number for each of more than {MOST_POSITIONS} distances: give fewer chunks, or use "
            "--rel-pos-bias rotary",
        )


def _criterion(o: Options) -> Rules:
    criterion, adaptive = o.get("criterion_name"), o.given("adaptive_softmax_cutoff")
    yield (
        adaptive and criterion not in (None, "adaptive_loss"),
        f"{o.named('adaptive_softmax_cutoff')}, but --criterion {criterion} does not support it: "
        "use --criterion adaptive_loss",
    )
    yield (
        criterion == "adaptive_loss" and not adaptive,
        "--criterion adaptive_loss needs an adaptive softmax: give --adaptive-softmax-cutoff, or "
        "use --criterion cross_entropy",
    )
    yield (
        criterion == "nat_loss",
        "--criterion nat_loss is for models that predict all words at once, but Mega's decoder "
        "predicts one at a time: use --criterion label_smoothed_cross_entropy",
    )


def bands(o: Options, part: str, dim: str, vocabulary: int, least: int = 1) -> Rules:
    """The bands of the adaptive ``input`` or ``softmax``, from each cutoff point to the next: at
    least ``least`` words each, and a width, which is the one before divided by the factor; the
    first has the option ``dim``."""
    cutoff, factor = (f"adaptive_{part}_{option}" for option in ("cutoff", "factor"))
    try:
        points = cutoffs(o[cutoff])
    except ValueError:
        points = []
    if points is None:
        return
    ends = [0, *points, *([vocabulary] if points and points[-1] < vocabulary else [])]
    words = [end - start for start, end in zip(ends, ends[1:])]
    yield (
        not points or min(words) < least or points[-1] > vocabulary,
        f"{o.named(cutoff)}, but must be rising numbers of at most the vocabulary's {vocabulary} "
        f"words, which put at least {least} in each band",
    )
    yield (
        not 0 < o[factor] < math.inf or not _has_width(o[dim], o[factor], len(words) - 1),
        f"{o.named(factor)}, but must leave at least 1 and at most {MOST_FEATURES} dimensions of "
        f"{o.both(dim)} in all {len(words)} bands",
    )


def _has_width(dim: int, factor: float, divisions: int) -> bool:
    left = math.log(dim) - divisions * math.log(factor)
    return -1e-9 <= left <= math.log(MOST_FEATURES)


def translation(o: Options, source, target) -> Rules:
    """The encoder and decoder of a translation model with these dictionaries."""
    yield (
        o.decoder_embed_dim != o.encoder_embed_dim,
        f"{o.both('decoder_embed_dim')} must be equal to {o.both('encoder_embed_dim')}, as the "
        "decoder attends to the encoder: leave it out",
    )
    if not o.share_all_embeddings:
        return
    yield (
        source != target,
        f"--share-all-embeddings needs one dictionary, but source ({len(source)} words) and target "
        f"({len(target)} words) differ: run fairseq-preprocess with --joined-dictionary, or use "
        "--share-decoder-input-output-embed",
    )
    yield (
        o.decoder_embed_path not in (None, o.encoder_embed_path),
        f"--share-all-embeddings has one embedding, but {o.named('decoder_embed_path')}: give "
        "--encoder-embed-path alone",
    )


def patches(o: Options) -> Rules:
    """The patches of images."""
    yield (
        o.image_size % o.patch_size,
        f"{o.named('image_size')}, but must be a multiple of {o.both('patch_size')}",
    )
    yield (
        (o.image_size // o.patch_size) ** 2 > MOST_POSITIONS,
        f"{o.named('image_size')}, but must make at most {MOST_POSITIONS} patches of "
        f"{o.both('patch_size')}",
    )


def classes(o: Options, reads: str, documents: int) -> Rules:
    """A classifier of samples of ``text`` or ``image``, of one or two sequences ``documents``."""
    yield (
        o.layer_type != "mega",
        f"{o.named('layer_type')}, but this package has only Mega layers: leave it out",
    )
    for name, choices in (("normalization_type", NORMS), ("sen_rep_type", ("mp", "cls"))):
        yield (
            o[name] is None,
            f"{o.named(name)}, and the architecture sets none: give one of {', '.join(choices)}",
        )
    yield (
        o.input_type not in (None, reads),
        f"{o.named('input_type')}, but the task reads "
        f"{'symbols' if reads == 'text' else 'real numbers'}: leave it out, or say {reads}",
    )
    yield (
        reads != "text" and o.sen_rep_type == "cls",
        "--sen-rep-type is cls, but only texts can have a symbol before them: use mp",
    )
    needed = documents * o.encoder_embed_dim
    yield (
        o.classifier_in_dim != needed,
        f"{o.named('classifier_in_dim')}, but must be {needed}, which is {documents} times "
        f"{o.both('encoder_embed_dim')}: leave it out",
    )
