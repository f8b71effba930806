"""Models are loaded and exchanged if the caller names a task that files may not choose."""

import copy
import json

import fairseq.tasks
import pytest
import torch
from helpers import SIZES, TINY, make_dictionary, parse_with_hydra
from honest import state_of

from fairseq_mega import MegaMaskedLM, MegaModel
from fairseq_mega.__main__ import main

MASKED = "--arch mega_masked_lm --encoder-layers 1 --max-positions 32 " + " ".join(
    f"--encoder-{name} {size}" for name, size in SIZES.items()
)
TASKS = {
    "denoising": (MegaModel, f"{TINY['mega']} --tokens-per-sample 32"),
    # The folders of the data give the languages.
    "multilingual_denoising": (MegaModel, f"{TINY['mega']} --add-lang-token"),
    "translation_multi_simple_epoch": (
        MegaModel,
        f"{TINY['mega']} --langs aa,bb --lang-pairs aa-bb --encoder-langtok src --decoder-langtok",
    ),
    "sentence_ranking": (MegaMaskedLM, f"{MASKED} --criterion sentence_ranking --num-classes 2"),
}


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


@pytest.fixture
def folder(task, tmp_path):
    """Writes a folder of data, and a checkpoint like fairseq-train's."""
    data = tmp_path / "data"
    for file in ("dict.txt", "dict.aa.txt", "dict.bb.txt", "input0/dict.txt"):
        (data / file).parent.mkdir(parents=True, exist_ok=True)
        make_dictionary(20).save(str(data / file))
    cfg = copy.deepcopy(parse_with_hydra(f"{TASKS[task][1]} --task {task}"))
    cfg.task.data = str(data)
    made = fairseq.tasks.setup_task(cfg.task)
    torch.save(state_of(cfg, made.build_model(cfg.model)), tmp_path / "model.pt")
    return tmp_path


def test_a_named_task_is_loaded_and_exchanged(task, folder):
    kind = TASKS[task][0]
    expected = torch.load(folder / "model.pt")["model"]

    def load(*where, **named):
        hub = kind.from_pretrained(*map(str, where), **named)
        ours = hub.models[0].state_dict()
        assert list(ours) == list(expected)
        assert all(torch.equal(ours[name], expected[name]) for name in ours)
        return hub

    where = folder, "model.pt", folder / "data"
    load(*where, task=task)
    with pytest.raises(ValueError, match=f"if you know it, give task='{task}'"):
        load(*where)
    with pytest.raises(ValueError, match=f"task '{task}', not the given 'translation'"):
        load(*where, task="translation")

    export = ["export", str(folder / "model.pt"), str(folder / "out"), "--data"]
    export.append(str(folder / "data"))
    with pytest.raises(SystemExit, match=f"is of the task '{task}'.*give --task '{task}'"):
        main(export)
    main([*export, "--task", task])
    exported = load(folder / "out", task=task)
    with pytest.raises(ValueError, match=f"task.name is '{task}'"):
        load(folder / "out")
    imported = [str(folder / "out"), str(folder / "again.pt"), "--task", task]
    main(["import", *imported, "--dictionaries", str(folder / "dictionaries")])
    loaded = load(folder, "again.pt", folder / "dictionaries", task=task)
    assert loaded.task.source_dictionary == exported.task.source_dictionary
    if task == "denoising":
        words = [f"{folder}/model.pt", f"{folder}/data", "w3 w5", "--task", task]
        main(["attend", *words, "--out", f"{folder}/maps"])
        assert (folder / "maps" / "index.html").exists()


@pytest.mark.parametrize("task", ["denoising"])
@pytest.mark.parametrize(
    "part, name, value, says",
    [
        ("options", "bpe", ["a", {"b": "${oc.env:HOME}"}], "stands for something else"),
        ("dictionaries", "../dict.txt", [], "no file of a dictionary"),
        ("dictionaries", "/dict.txt", [], "no file of a dictionary"),
    ],
)
def test_a_tampered_description_is_refused(task, folder, part, name, value, says):
    data = str(folder / "data")
    main(["export", f"{folder}/model.pt", f"{folder}/out", "--data", data, "--task", task])
    description = json.loads((folder / "out" / "config.json").read_text())
    (description["task"] if part == "options" else description)[part][name] = value
    (folder / "out" / "config.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=says):
        MegaModel.from_pretrained(str(folder / "out"), task=task)
