"""Runs a translation or language model on a text, and keeps what its layers attended to."""

import inspect
import math
import os
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

import torch
from fairseq.data import Dictionary
from fairseq.hub_utils import GeneratorHubInterface
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from torch import Tensor, nn

from ..checkpoints.trust import PluginModel, check_model, chosen, read_checkpoint
from ..models.decoder import MegaDecoder
from ..models.mega import MegaModel
from ..models.mega_lm import MegaLanguageModel
from ..models.streaming import target_scores

LONGEST_TEXT = 1024  # tokens: a map has their square


class AttentionMap(NamedTuple):
    """Attention weights ``(L, S)`` of a layer: ``encoder 0``, ``decoder 0`` or ``cross 0``."""

    layer: str
    queries: List[str]
    keys: List[str]
    weights: Tensor
    chunk_size: int  # -1 for none
    function: str


class Surprisal(NamedTuple):
    """How unexpected each token was to a language model: ``-log2 p``, bits, ``(L,)``.

    ``cut`` is with chunks that are each read from an empty state, so that no EMA carries anything
    over their borders; None where the model has no chunks, or the text is no longer than one.
    """

    tokens: List[str]
    carried: Tensor
    cut: Optional[Tensor]
    chunk_size: int


class Attended(NamedTuple):
    maps: List[AttentionMap]
    surprisal: Optional[Surprisal]


class Sample(NamedTuple):
    """Token ids ``(S,)`` of the source, None for language models, and ``(L,)`` of what the decoder
    reads and of what it is to predict."""

    source: Optional[Tensor]
    previous: Tensor
    target: Tensor


# --- model and text -----------------------------------------------------------------------------


def load(checkpoint: Path, data: str, options: Dict[str, Any]) -> GeneratorHubInterface:
    """fairseq's hub interface to the model in a checkpoint.

    Args:
        data: the folder of its dictionaries.
        options: ``bpe`` and the options of that.

    Raises:
        FileNotFoundError: where a file is missing.
        ValueError: where it is another model, or cannot be used; nothing has been built then.
    """
    state = read_checkpoint(str(checkpoint))
    name = chosen(state, "model", str(checkpoint))
    check_model(name, PluginModel, str(checkpoint))
    kind = ARCH_MODEL_REGISTRY.get(name) or MODEL_REGISTRY[name]
    if not issubclass(kind, (MegaModel, MegaLanguageModel)):
        raise ValueError(
            f"{checkpoint} holds a {kind.__name__}, but attend is for translation and language "
            "models: inspect shows what is in its weights"
        )
    if not Path(data).is_dir():
        raise FileNotFoundError(f"no folder of data at {data}")
    if os.pathsep in checkpoint.name:
        raise ValueError(
            f"the name of {checkpoint} has a {os.pathsep}, with which fairseq names several: give "
            "the file another name"
        )
    # A path that begins with a dot would be one from the checkpoint's folder.
    data = str(Path(data).resolve())
    hub = kind.from_pretrained(str(checkpoint.parent), checkpoint.name, data, **options)
    return hub.eval()


def sample_of_text(
    hub: GeneratorHubInterface, text: str, translation: Optional[str] = None
) -> Sample:
    """A text to attend to, for translation models with a ``translation`` or, by default, the
    model's own (beam 5).

    Raises:
        ValueError: where a token is unknown or the text too long.
    """
    task, model = hub.task, hub.models[0]
    tokens = _encode(hub, text, task.source_dictionary)
    if isinstance(model, MegaLanguageModel):
        sample = Sample(None, _shifted(tokens), tokens)
    else:
        check_length("the text", tokens, model.encoder.max_positions())
        if translation is None:
            target = hub.generate(tokens, beam=5)[0]["tokens"].cpu()
        else:
            target = _encode(hub, translation, task.target_dictionary)
        sample = Sample(tokens, _shifted(target), target)
    check_sample(model, sample)
    return sample


def sample_of_data(hub: GeneratorHubInterface, split: str, index: int) -> Sample:
    """A sample of the data.

    Raises:
        FileNotFoundError: where there is no such set.
        ValueError: where it has no such sample, or one that is too long.
    """
    if hasattr(hub.task, "args") and hasattr(hub.task.args, "use_plasma_view"):
        hub.task.args.use_plasma_view = False  # in old checkpoints, the name of another option
    hub.task.load_dataset(split)
    dataset = hub.task.dataset(split)
    if not 0 <= index < len(dataset):
        raise ValueError(f"--index is {index}, but {split} has the samples 0 to {len(dataset) - 1}")
    item, model = dataset[index], hub.models[0]
    if isinstance(model, MegaLanguageModel):
        sample = Sample(None, item["source"], item["target"])
    elif item["target"] is None:
        raise ValueError(f"{split} has no translations: give the sentence as a text")
    else:
        sample = Sample(item["source"], _shifted(item["target"]), item["target"])
    check_sample(model, sample)
    return sample


def _encode(hub: GeneratorHubInterface, text: str, dictionary: Dictionary) -> Tensor:
    """Token ids ``(L,)`` with the end of the sentence."""
    words = hub.apply_bpe(hub.tokenize(text)).split()
    if not words:
        raise ValueError("the text is empty")
    unknown = [
        word for word in words
        if dictionary.index(word) == dictionary.unk() and word != dictionary.unk_word
    ]  # fmt: skip
    if unknown:
        listed = ", ".join(repr(word) for word in dict.fromkeys(unknown))
        raise ValueError(
            f"not in the dictionary: {listed[:200]}. The text must be split as the training data "
            "was: give --bpe with its model, or the pieces themselves with spaces between them; "
            f"write {dictionary.unk_word} for a word that is to be unknown"
        )
    return dictionary.encode_line(" ".join(words), add_if_not_exist=False).long()


def _shifted(target: Tensor) -> Tensor:
    """What the decoder reads to predict ``target (L,)``, whose last token ends the sentence."""
    return torch.cat([target[-1:], target[:-1]])


def check_sample(model: MegaModel | MegaLanguageModel, sample: Sample) -> None:
    """
    Raises:
        ValueError: where a text is too long for a ``simple`` bias or for a map.
    """
    check_length("the text", sample.previous, model.decoder.max_positions())
    if sample.source is not None:
        check_length("the source", sample.source, model.encoder.max_positions())


def check_length(what: str, tokens: Tensor, limit: int) -> None:
    """
    Raises:
        ValueError: says what the limit is.
    """
    if len(tokens) > limit:
        raise ValueError(
            f"{what} has {len(tokens)} tokens, but the model's simple positional bias has {limit} "
            "positions: give a shorter one"
        )
    if len(tokens) > LONGEST_TEXT:
        raise ValueError(
            f"{what} has {len(tokens)} tokens, but attention is drawn for up to {LONGEST_TEXT}: "
            "give a shorter one"
        )


# --- attention ----------------------------------------------------------------------------------


@torch.no_grad()
def attend(
    hub: GeneratorHubInterface, sample: Sample, layers: Optional[Sequence[int]] = None
) -> Attended:
    """What the layers of the model attend to in a sample.

    Args:
        layers: their numbers, negative ones from the end; by default the first and the last.

    Raises:
        ValueError: where there is no such layer.
    """
    model, task = hub.models[0], hub.task
    read, wanted = words_of(task.target_dictionary, sample.previous), _attentions(model, layers)
    predicted = words_of(task.target_dictionary, sample.target)
    words = {"decoder": (read, read)}
    if sample.source is not None:
        source = words_of(task.source_dictionary, sample.source)
        words.update(encoder=(source, source), cross=(predicted, source))
    with captured(wanted) as weights:
        encoder_out = None
        if sample.source is not None:
            encoder_out = model.encoder(sample.source.unsqueeze(0))
        previous = sample.previous.unsqueeze(0)
        features, _ = model.decoder.extract_features(previous, encoder_out=encoder_out)
    maps = [
        AttentionMap(
            name,
            *words[name.split()[0]],
            weights[name][0],
            getattr(module, "chunk_size", -1),
            str(module.attention_activation),
        )
        for name, module in wanted.items()
    ]
    surprisal = None
    if isinstance(model, MegaLanguageModel):
        surprisal = _surprisal(model, sample, features, predicted)
    return Attended(maps, surprisal)


def words_of(dictionary: Dictionary, tokens: Tensor) -> List[str]:
    return [dictionary[int(token)] for token in tokens]


def _attentions(model: nn.Module, layers: Optional[Sequence[int]]) -> Dict[str, nn.Module]:
    """The modules that attend, by ``encoder``, ``decoder`` or ``cross`` and the layer's number."""
    found = {}
    for side in ("encoder", "decoder"):
        stack = getattr(getattr(model, side, None), "layers", [])
        for number in _numbers(layers, len(stack)) if len(stack) else []:
            found[f"{side} {number}"] = stack[number].mega_layer
            if getattr(stack[number], "cross_attn", None) is not None:
                found[f"cross {number}"] = stack[number].cross_attn
    return found


def _numbers(layers: Optional[Sequence[int]], count: int) -> List[int]:
    for number in layers or ():
        if not -count <= number < count:
            raise ValueError(f"--layers has {number}, but there are the layers 0 to {count - 1}")
    return list(dict.fromkeys(number % count for number in layers or (0, count - 1)))


@contextmanager
def captured(modules: Dict[str, nn.Module]) -> Iterator[Dict[str, Tensor]]:
    """Has these modules return their attention weights, and fills a dictionary with them,
    ``(B, L, S)``. Layers do not keep weights otherwise, and compute them tile by tile."""
    weights: Dict[str, Tensor] = {}
    hooks = []
    for name, module in modules.items():
        hooks.append(module.register_forward_pre_hook(_ask_for_weights, with_kwargs=True))
        hooks.append(module.register_forward_hook(partial(_keep_weights, weights, name)))
    try:
        yield weights
    finally:
        for hook in hooks:
            hook.remove()


def _ask_for_weights(module: nn.Module, args, kwargs):
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    bound.arguments["need_weights"] = True
    return bound.args, bound.kwargs


def _keep_weights(weights: Dict[str, Tensor], name: str, module: nn.Module, args, output) -> None:
    weights[name] = output[1]


def _surprisal(
    model: MegaLanguageModel, sample: Sample, features: Tensor, words: List[str]
) -> Surprisal:
    size, target = model.chunk_size, sample.target.unsqueeze(0)
    carried, cut = bits(model.decoder, features, target), None
    if 0 < size < target.size(1):
        chunks = sample.previous.unsqueeze(0).split(size, dim=1)
        read = [model.decoder.extract_features(chunk)[0] for chunk in chunks]
        cut = bits(model.decoder, torch.cat(read, dim=1), target)
    return Surprisal(words, carried, cut, size)


def bits(decoder: MegaDecoder, features: Tensor, target: Tensor) -> Tensor:
    """``-log2 p`` of ``target (1, L)`` under ``features (1, L, D)``: ``(L,)``."""
    return target_scores(decoder, features, target)[0].double() / -math.log(2)
