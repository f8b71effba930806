"""Converts folders of the Hugging Face port of Mega (``MegaForMaskedLM``,
``MegaForSequenceClassification``) for fairseq's commands. transformers is not needed."""

from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import torch
from fairseq.data import Dictionary
from torch import Tensor

from .building import load_model, make_config, make_task, new_checkpoint
from .huggingface_names import complete, convert_options, convert_weights
from .reading import load, load_safetensors, named_weights, read_object
from .writing import new_folder

CHECKPOINT = "model.pt"
SPECIAL = 4  # <s>, <pad>, </s>, <unk>, which no dict.txt lists
CLASSES = "classifier.out_proj.weight"


def convert_huggingface(folder: Path, out: Path, mask_id: Optional[int] = None) -> None:
    """Writes ``model.pt`` and dictionaries to the new folder ``out``: ``dict.txt`` for a masked
    language model; ``input0/dict.txt`` and ``label/dict.txt`` for a classifier.

    Args:
        folder: ``config.json``, ``model.safetensors`` or ``pytorch_model.bin``, and, for the names
            of the words, ``tokenizer.json`` or ``vocab.json``.
        mask_id: the number of the mask, if no word is called ``<mask>``.

    Raises:
        ValueError: at an option without an exact equivalent, or weights that do not fit the
            options; if the mask is not known.
        FileNotFoundError: if a file is missing.
        FileExistsError: if ``out`` exists.
    """
    path = folder / "config.json"
    config = complete(read_json(path), str(path))
    weights = read_weights(folder)
    check_vocabulary(config, weights, path)
    words = make_words(read_vocabulary(folder), config["vocab_size"], mask_id, folder)
    options = convert_options(config)
    with new_folder(out) as part:
        if CLASSES in weights:
            labels = make_labels(config, len(weights[CLASSES]))
            save_words(words, part / "input0" / "dict.txt")
            save_words(labels, part / "label" / "dict.txt")
            regression = config["problem_type"] == "regression" or (
                config["problem_type"] is None and len(labels) == 1
            )
            task = dict(
                _name="sentence_prediction",
                num_classes=len(labels),
                init_token=config["bos_token_id"],
                max_positions=options["max_positions"],
            )
            criterion = dict(_name="sentence_prediction", regression_target=regression)
        else:
            save_words(words, part / "dict.txt")
            task = dict(_name="masked_lm", tokens_per_sample=options["max_positions"])
            criterion = dict(_name="masked_lm")
        full = make_config({**task, "data": ""}, options, criterion)
        built = make_task(full, part)
        converted = convert_weights(weights, config)
        model = load_model(lambda: built.build_model(full.model, True), converted, str(folder))
        torch.save(new_checkpoint(full, model.state_dict()), part / CHECKPOINT)


# --- reading ------------------------------------------------------------------------------------


def read_json(path: Path) -> Dict[str, Any]:
    """
    Raises:
        ValueError: if the file holds no object.
        FileNotFoundError: if there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}")
    return read_object(path)


def read_weights(folder: Path) -> Dict[str, Tensor]:
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if safe.is_file():
        return load_safetensors(safe)
    if not pickled.is_file():
        raise FileNotFoundError(f"no {safe.name} or {pickled.name} in {folder}")
    return named_weights(load(pickled), pickled)


def check_vocabulary(config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> None:
    """Checks that the weights are those of a model that can be converted, with so many words."""
    if not {CLASSES, "mlm_head.bias"} & set(weights):
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
    """Returns the numbers of the words from the tokenizer's files; nothing without those."""
    if (folder / "tokenizer.json").is_file():
        tokenizer = read_json(folder / "tokenizer.json")
        vocabulary = tokenizer.get("model", {}).get("vocab", {})
        if isinstance(vocabulary, list):  # with scores, in the order of their numbers
            vocabulary = {word: i for i, (word, *_) in enumerate(vocabulary)}
        added = {each["content"]: each["id"] for each in tokenizer.get("added_tokens") or []}
        return {**vocabulary, **added}
    files = (folder / name for name in ("vocab.json", "added_tokens.json"))
    return {word: i for file in files if file.is_file() for word, i in read_json(file).items()}


# --- dictionaries -------------------------------------------------------------------------------


def make_words(
    vocabulary: Mapping[str, int], size: int, mask_id: Optional[int], folder: Path
) -> List[str]:
    """Returns the words from number 4 on, as fairseq's dictionaries list them. The number replaces
    a missing word, and one with a space in it, which no text that is split at spaces can hold.

    Raises:
        ValueError: if the mask is not known, or is one of the first four.
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
    """Returns the names of the classes, without spaces, in their order."""
    names = config.get("id2label") or {}
    return ["_".join(str(names.get(str(i), i)).split()) for i in range(classes)]


def save_words(words: List[str], path: Path) -> None:
    dictionary = Dictionary()
    for number, word in enumerate(words, SPECIAL):
        if dictionary.add_symbol(word) != number:
            raise ValueError(
                f"the word {word!r} of number {number} has another number too, or is one of <s>, "
                "<pad>, </s>, <unk>, which are 0 to 3 in fairseq's dictionaries"
            )
    path.parent.mkdir(exist_ok=True)
    dictionary.save(str(path))
