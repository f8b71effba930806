"""Folders of the Hugging Face port of Mega (``MegaForMaskedLM``, ``MegaForSequenceClassification``)
as a checkpoint and dictionaries for fairseq's commands. transformers is not needed."""

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import torch
from fairseq.data import Dictionary
from omegaconf import DictConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .conversion import make_config, write_checkpoint
from .huggingface_names import complete, convert_options, convert_weights
from .writing import new_folder

CHECKPOINT = "model.pt"
SPECIAL = 4  # <s>, <pad>, </s>, <unk>, which no dict.txt lists


def convert_huggingface(folder: Path, out: Path, mask_id: Optional[int] = None) -> None:
    """Writes ``model.pt`` and dictionaries to the new folder ``out``: ``dict.txt`` of a masked
    language model; ``input0/dict.txt`` and ``label/dict.txt`` of a classifier.

    Args:
        folder: ``config.json``, ``model.safetensors`` or ``pytorch_model.bin``, and, for the names
            of the words, ``tokenizer.json`` or ``vocab.json``. Without those, the words are their
            numbers.
        mask_id: the number of the mask, if no word is called ``<mask>``.

    Raises:
        ValueError: at an option without an exact equivalent, by its name; at weights that do not
            fit the options; where the mask is not known.
        FileNotFoundError: where a file is missing.
        FileExistsError: where ``out`` is there.
    """
    path = folder / "config.json"
    config = read_json(path)
    kind = config.get("model_type", "mega")
    if kind != "mega":
        raise ValueError(f"{path}: model_type is {kind!r}, not 'mega'")
    config = complete(config, str(path))
    weights = read_weights(folder)
    check_vocabulary(config, weights, path)
    words = make_words(read_vocabulary(folder), config["vocab_size"], mask_id, folder)
    classifies = "classifier.out_proj.weight" in weights
    with new_folder(out) as part:
        if classifies:
            labels = make_labels(config, len(weights["classifier.out_proj.weight"]))
            save_words(words, part / "input0" / "dict.txt")
            save_words(labels, part / "label" / "dict.txt")
            full = classifier_config(config, len(labels))
        else:
            save_words(words, part / "dict.txt")
            full = masked_lm_config(config)
        write_checkpoint(full, convert_weights(weights, config), part, folder, part / CHECKPOINT)


def masked_lm_config(config: Mapping[str, Any]) -> DictConfig:
    options = convert_options(config)
    task = dict(_name="masked_lm", data="", tokens_per_sample=options["max_positions"])
    return make_config(task, options, dict(_name="masked_lm"))


def classifier_config(config: Mapping[str, Any], classes: int) -> DictConfig:
    options = convert_options(config)
    regression = config["problem_type"] == "regression" or (
        config["problem_type"] is None and classes == 1
    )
    task = dict(
        _name="sentence_prediction",
        data="",
        num_classes=classes,
        init_token=config["bos_token_id"],
        max_positions=options["max_positions"],
    )
    return make_config(
        task, options, dict(_name="sentence_prediction", regression_target=regression)
    )


# --- reading ------------------------------------------------------------------------------------


def read_json(path: Path) -> Dict[str, Any]:
    """
    Raises:
        ValueError: where the file holds no object.
        FileNotFoundError: where there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}")
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no object")
    return value


def read_weights(folder: Path) -> Dict[str, Tensor]:
    """The weights by the port's names; no code in the file is run.

    Raises:
        ValueError: where the file holds something else, or cannot be read.
        FileNotFoundError: where there is none.
    """
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    try:
        if safe.is_file():
            return load_file(safe)
        if not pickled.is_file():
            raise FileNotFoundError(f"no {safe.name} or {pickled.name} in {folder}")
        weights = torch.load(pickled, map_location="cpu", weights_only=True)
    except (
        SafetensorError,
        RuntimeError,
        EOFError,
        torch.serialization.pickle.UnpicklingError,
    ) as e:
        raise ValueError(f"the weights in {folder} cannot be read: {e}") from e
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise ValueError(f"{pickled} does not hold weights alone")
    return weights


def check_vocabulary(config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> None:
    """Checks that the weights are of a model that can be converted, and of so many words.

    Raises:
        ValueError: names the option.
    """
    if not {"classifier.out_proj.weight", "mlm_head.bias"} & set(weights):
        raise ValueError(
            f"{path}: architectures is {config.get('architectures')}, but only MegaForMaskedLM and "
            "MegaForSequenceClassification can be converted"
        )
    rows = len(weights.get("mega.embedding_layer.word_embeddings.weight", ()))
    if rows != config["vocab_size"]:
        raise ValueError(
            f"{path}: vocab_size is {config['vocab_size']}, but the weights have {rows} words"
        )


def read_vocabulary(folder: Path) -> Dict[str, int]:
    """The numbers of the words, of the tokenizer's files; empty without those."""
    if (folder / "tokenizer.json").is_file():
        tokenizer = read_json(folder / "tokenizer.json")
        vocabulary = tokenizer.get("model", {}).get("vocab", {})
        if isinstance(vocabulary, list):  # with scores, in the order of their numbers
            vocabulary = {word: i for i, (word, *_) in enumerate(vocabulary)}
        added = {each["content"]: each["id"] for each in tokenizer.get("added_tokens") or []}
        return {**vocabulary, **added}
    vocabulary = {}
    for name in ("vocab.json", "added_tokens.json"):
        if (folder / name).is_file():
            vocabulary.update(read_json(folder / name))
    return vocabulary


# --- dictionaries -------------------------------------------------------------------------------


def make_words(
    vocabulary: Mapping[str, int], size: int, mask_id: Optional[int], folder: Path
) -> List[str]:
    """The words from number 4 on, as fairseq's dictionaries list them.

    A number without a word is a word of that number, and so is a word with a space in it, which no
    text that is split at spaces can hold.

    Raises:
        ValueError: where the mask is not known, or is one of the first four.
    """
    names = {number: word for word, number in vocabulary.items() if len(word.split()) == 1}
    mask_id = vocabulary.get("<mask>") if mask_id is None else mask_id
    if mask_id is None or not SPECIAL <= mask_id < size:
        raise ValueError(
            f"the number of <mask> in {folder} is {mask_id}, but must be from {SPECIAL} to "
            f"{size - 1} (vocab_size): give --mask-id"
        )
    unnamed = "{}" if not vocabulary else "madeupword{}"
    words = [names.get(number, unnamed.format(number)) for number in range(SPECIAL, size)]
    words[mask_id - SPECIAL] = "<mask>"
    return words


def make_labels(config: Mapping[str, Any], classes: int) -> List[str]:
    """The names of the classes, without spaces, in their order."""
    names = config.get("id2label") or {}
    return ["_".join(str(names.get(str(i), i)).split()) for i in range(classes)]


def save_words(words: List[str], path: Path) -> None:
    """
    Raises:
        ValueError: at a word that is there twice, or is one of the four that come first.
    """
    dictionary = Dictionary()
    for number, word in enumerate(words, SPECIAL):
        if dictionary.add_symbol(word) != number:
            raise ValueError(
                f"the word {word!r} of number {number} is there twice, or one of <s>, <pad>, </s>, "
                "<unk>, which are 0 to 3 in fairseq's dictionaries"
            )
    path.parent.mkdir(exist_ok=True)
    dictionary.save(str(path))
