"""Runs a translation or language model on a sample, and records what its layers attend to."""

import inspect
import math
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import torch
from fairseq.data import Dictionary
from fairseq.hub_utils import GeneratorHubInterface
from fairseq.models import ARCH_MODEL_REGISTRY
from torch import Tensor, nn

from ..checkpoints.reading import chosen, read_checkpoint
from ..checkpoints.trust import PluginModel, check_model
from ..models.mega import MegaModel
from ..models.mega_lm import MegaLanguageModel
from ..models.streaming import target_scores

LONGEST_TEXT = 1024  # tokens; the size of a map is its square


class AttentionMap(NamedTuple):
    """Attention weights ``(L, S)`` of a layer: ``encoder 0``, ``decoder 0`` or ``cross 0``."""

    layer: str
    queries: List[str]
    keys: List[str]
    weights: Tensor
    chunk_size: int  # -1 for none
    chunks_before: int  # that attention sees


class Surprisal(NamedTuple):
    """Surprisal ``-log2 p`` of each token in bits, ``(L,)``; for ``cut``, each chunk is read from
    an empty state, so that neither an EMA nor attention reads across the border."""

    tokens: List[str]
    carried: Tensor
    cut: Tensor
    chunk_size: int  # -1 for none


class Sample(NamedTuple):
    """Token ids of the source ``(S,)``, which language models lack, and of the decoder's input and
    target, both ``(L,)``."""

    source: Optional[Tensor]
    previous: Tensor
    target: Tensor


# --- model and sample ---------------------------------------------------------------------------


def load(checkpoint: Path, data: Path, options: Dict[str, Any]) -> GeneratorHubInterface:
    """Loads fairseq's hub interface to the model in a checkpoint.

    Args:
        data: the folder of its dictionaries.
        options: options of ``from_pretrained``, such as ``bpe``.
    """
    path = str(checkpoint)
    name = check_model(chosen(read_checkpoint(path), "model"), PluginModel, path)
    kind = ARCH_MODEL_REGISTRY[name]
    if not issubclass(kind, (MegaModel, MegaLanguageModel)):
        raise ValueError(
            f"{path} holds the model {name}, but attend is for translation and language models: "
            "give another checkpoint"
        )
    # fairseq takes a path that begins with a dot as relative to the checkpoint's folder.
    folder = str(data.resolve())
    return kind.from_pretrained(str(checkpoint.parent), checkpoint.name, folder, **options).eval()


def sample_of_text(
    hub: GeneratorHubInterface, text: str, translation: Optional[str] = None
) -> Sample:
    """Encodes a text and its ``translation``, by default the model's own (beam 5)."""
    task, tokens = hub.task, _encode(hub, text, hub.task.source_dictionary)
    if isinstance(hub.models[0], MegaLanguageModel):
        return Sample(None, _shifted(tokens), tokens)
    if translation is None:
        target = hub.generate(tokens, beam=5)[0]["tokens"].cpu()
    else:
        target = _encode(hub, translation, task.target_dictionary)
    return Sample(tokens, _shifted(target), target)


def sample_of_data(hub: GeneratorHubInterface, split: str, index: int) -> Sample:
    """Reads sample ``index`` of the data."""
    one_text = isinstance(hub.models[0], MegaLanguageModel)
    if one_text:
        hub.task.args.use_plasma_view = False  # old checkpoints lack the option
    hub.task.load_dataset(split)
    dataset = hub.task.dataset(split)
    if not 0 <= index < len(dataset):
        raise ValueError(f"--index is {index}, but must be from 0 to {len(dataset) - 1} in {split}")
    item = dataset[index]
    if item["target"] is None:
        raise ValueError(f"--split is {split}, which has no translations: give a TEXT instead")
    if one_text:
        return Sample(None, item["source"], item["target"])
    return Sample(item["source"], _shifted(item["target"]), item["target"])


def _encode(hub: GeneratorHubInterface, text: str, dictionary: Dictionary) -> Tensor:
    """Returns token ids ``(L,)`` with the end of the sentence."""
    words = hub.apply_bpe(hub.tokenize(text)).split()
    known = {*dictionary.symbols}
    unknown = [repr(word) for word in dict.fromkeys(words) if word not in known]
    if unknown:
        raise ValueError(
            f"not in the dictionary: {', '.join(unknown):.200}: split the text as the training "
            "data was, with --bpe and its model or into subwords with spaces between them, and "
            f"write {dictionary.unk_word} for unknown words"
        )
    return dictionary.encode_line(" ".join(words), add_if_not_exist=False).long()


def _shifted(target: Tensor) -> Tensor:
    """Returns the decoder's input for ``target (L,)``, whose last token ends the sentence."""
    return torch.cat([target[-1:], target[:-1]])


# --- attention ----------------------------------------------------------------------------------


@torch.no_grad()
def attention_maps(
    hub: GeneratorHubInterface, sample: Sample, layers: Sequence[int] = (0, -1)
) -> List[AttentionMap]:
    """Computes the attention weights of layers; negative numbers count from the last layer."""
    longest = max(len(tokens) for tokens in sample if tokens is not None)
    if longest > LONGEST_TEXT:
        raise ValueError(
            f"the text has {longest} tokens, but must have at most {LONGEST_TEXT}: give a shorter "
            "one"
        )
    model, task, encoder_out = hub.models[0], hub.task, None
    read = _words(task.target_dictionary, sample.previous)
    words = {"decoder": (read, read)}
    if sample.source is not None:
        source = _words(task.source_dictionary, sample.source)
        predicted = _words(task.target_dictionary, sample.target)
        words.update(encoder=(source, source), cross=(predicted, source))
    modules = _attentions(model, layers)
    weights: Dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(partial(_record, weights, name), with_kwargs=True)
        for name, module in modules.items()
    ]
    try:
        if sample.source is not None:
            encoder_out = model.encoder(sample.source.unsqueeze(0))
        model.decoder.extract_features(sample.previous.unsqueeze(0), encoder_out=encoder_out)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        AttentionMap(
            name,
            *words[name.split()[0]],
            weights[name],
            getattr(module, "chunk_size", -1),
            getattr(module, "chunks_before", 0),
        )
        for name, module in modules.items()
    ]


def _words(dictionary: Dictionary, tokens: Tensor) -> List[str]:
    return [dictionary[int(token)] for token in tokens]


def _attentions(model: Any, layers: Sequence[int]) -> Dict[str, nn.Module]:
    """Returns the attention modules by names such as ``encoder 0`` and ``cross 0``."""
    found = {}
    for side in ("encoder", "decoder") if isinstance(model, MegaModel) else ("decoder",):
        stack = getattr(model, side).layers
        for number in layers:
            if not -len(stack) <= number < len(stack):
                raise ValueError(
                    f"--layers has {number}, but must be from {-len(stack)} to {len(stack) - 1}"
                )
            layer, number = stack[number], number % len(stack)
            found[f"{side} {number}"] = layer.mega_layer
            if side == "decoder" and layer.cross_attn is not None:
                found[f"cross {number}"] = layer.cross_attn
    return found


def _record(weights: Dict[str, Tensor], name: str, module: nn.Module, args, kwargs, output) -> None:
    """Repeats a forward pass to keep its attention weights ``(L, S)``."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    bound.arguments["need_weights"] = True
    weights[name] = module.forward(*bound.args, **bound.kwargs)[1][0]


@torch.no_grad()
def surprisal_of(hub: GeneratorHubInterface, sample: Sample) -> Surprisal:
    """Computes the surprisal of a language model's sample."""
    decoder, size = hub.models[0].decoder, hub.models[0].chunk_size
    previous, target = sample.previous.unsqueeze(0), sample.target.unsqueeze(0)
    chunks = previous.split(size if size > 0 else previous.size(1), dim=1)
    cut = torch.cat([decoder.extract_features(chunk)[0] for chunk in chunks], dim=1)
    carried, _ = decoder.extract_features(previous)
    words = _words(hub.task.target_dictionary, sample.target)
    bits = [target_scores(decoder, x, target)[0].double() / -math.log(2) for x in (carried, cut)]
    return Surprisal(words, bits[0], bits[1], size)
