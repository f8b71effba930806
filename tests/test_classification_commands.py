"""fairseq's commands classify: published checkpoints, resumed trainings, two processes."""

import json
import re
import signal

import pytest
import torch
from classification import KINDS, PARITY, TASK_OF, make_data, parity_data
from commands import distributed_options, finish, losses, run_warm, start
from helpers import assert_close

SMALL = (
    "--encoder-layers 2 --encoder-embed-dim 16 --encoder-hidden-dim 32 --z-dim 8 --n-dim 4 "
    "--chunk-size 8 --classifier-out-dim 32 --max-positions 64"
)
TRAIN = (
    f"{SMALL} --criterion lra_cross_entropy --sentence-avg --optimizer adam --lr 5e-3 "
    "--lr-scheduler linear_decay --warmup-updates 5 --total-num-update 200 --batch-size 8 "
    "--log-interval 1 --log-format json --num-workers 0 --no-epoch-checkpoints"
)
TEXT = "--task lra-text -a mega_text"


@pytest.mark.parametrize("kind", KINDS)
def test_scoring_a_published_checkpoint(kind, tmp_path):
    """The loss and accuracy of the test set are the published ones, as printed."""
    data = parity_data(kind, tmp_path / "data")
    path, files = PARITY / kind / "checkpoint.pt", set(data.rglob("*"))
    output = run_warm(
        "validate",
        data,
        f"--task {TASK_OF.get(kind, 'lra-text')} --path {path} --valid-subset test --batch-size 16",
        f"--log-format simple --results-path {tmp_path / 'results'}",
        f"--cache-dir {tmp_path / 'cache'}" if kind in ("image", "speech") else "",
    )
    assert set(data.rglob("*")) == files  # the data may be read-only
    expected = torch.load(path.parent / "expected.pt")
    (loss, accuracy) = re.findall(r"\| loss ([\d.e-]+) \| accuracy ([\d.]+)", output)[0]
    assert float(loss) == pytest.approx(expected["loss_base2"], abs=6e-4)
    assert float(accuracy) == pytest.approx(expected["accuracy"], abs=6e-4)
    outcome = json.loads((tmp_path / "results" / "summary-test.json").read_text())
    assert outcome["accuracy"] == pytest.approx(expected["accuracy"])
    assert outcome["samples"] == len(expected["target"])
    predicted = torch.bincount(expected["logits"].argmax(1), minlength=len(outcome["classes"]))
    assert torch.tensor(outcome["confusion"]).sum(0).tolist() == predicted.tolist()


def test_a_published_table_and_another_chunk_size(tmp_path):
    data = parity_data("image", tmp_path / "data")
    path = PARITY / "image" / "checkpoint.pt"
    options = f"--task lra-image --path {path} --valid-subset test --batch-size 16"
    overrides = "--model-overrides \"{'chunk_size': 8}\""
    output = run_warm("validate", data, options, overrides, fails=True)
    message = output[output.rindex("ValueError") :]
    for words in ("learned for 16 positions", "the model has 8", "--chunk-size", "rotary"):
        assert words in message


def test_a_published_checkpoint_can_be_trained_on(tmp_path):
    """The training continues in its epoch; the checkpoint has no optimizer state."""
    data = parity_data("text", tmp_path / "data")
    options = (
        "--task lra-text -a mega_lra_imdb --input-type text --encoder-embed-dim 16 "
        "--encoder-hidden-dim 32 --z-dim 8 --n-dim 4 --encoder-layers 2 --norm-type scalenorm "
        "--attention-activation-fn softmax --sentence-class-num 3 --max-positions 64"
    )
    train = TRAIN.replace(SMALL, options)
    restore = f"--restore-file {PARITY / 'text' / 'checkpoint.pt'} --save-dir {tmp_path}"
    output = run_warm("train", data, train, restore, "--max-update 4 --disable-validation")
    curve = losses(output)
    assert list(curve) == [1, 2, 3, 4] and '"epoch": 13' in output
    assert sum(curve.values()) / 4 < 1.2  # log2(3) before it has learned


def test_kill_and_resume(tmp_path):
    """A training with dropout, killed within an epoch, has an uninterrupted one's losses."""
    data = make_data("text", tmp_path / "data", 2)
    dropout = "--dropout 0.1 --attention-dropout 0.1 --act-dropout 0.1 --max-update 30"
    command = ["train", data, TEXT, TRAIN, dropout, "--save-interval-updates 5"]
    whole = losses(run_warm(*command, f"--save-dir {tmp_path / 'whole'}"))
    assert list(whole) == list(range(1, 31))

    process = start(*command, f"--save-dir {tmp_path / 'killed'}")
    for line in process.stdout:
        if '"num_updates": "12"' in line:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    resumed = losses(run_warm(*command, f"--save-dir {tmp_path / 'killed'}"))
    assert min(resumed) > 5 and max(resumed) == 30
    assert resumed == {update: whole[update] for update in resumed}
    ours, theirs = (
        torch.load(tmp_path / folder / "checkpoint_last.pt")["model"]
        for folder in ("killed", "whole")
    )
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


def test_two_processes_train_as_one_that_accumulates_gradients(tmp_path):
    data = make_data("pair", tmp_path / "data", 2)
    command = ["train", data, "--task lra-text -a mega_retrieval", TRAIN]
    command.append("--dropout 0 --max-update 12")
    two, one = tmp_path / "two", tmp_path / "one"
    processes = [
        start(*command, f"--save-dir {two} {distributed}") for distributed in distributed_options()
    ]
    output = [finish(process) for process in processes][0]
    alone_output = run_warm(*command, f"--save-dir {one} --update-freq 2")
    together, alone = losses(output), losses(alone_output)
    assert list(together) == list(alone) == list(range(1, 13))
    assert together == pytest.approx(alone, abs=2e-3)
    accuracies = [re.findall(r'"valid_accuracy": "([\d.]+)"', o) for o in (output, alone_output)]
    assert accuracies[0] == accuracies[1] and len(accuracies[0]) >= 2
    models = [torch.load(folder / "checkpoint_last.pt")["model"] for folder in (two, one)]
    for name, value in models[1].items():
        assert_close(models[0][name], value, 1e-3, name)


def test_learning_and_validation_on_held_out_samples(tmp_path):
    """Worker processes read the data. The held-out samples choose the best checkpoint, and have
    the same score in ``fairseq-validate``."""
    data = make_data("text", tmp_path / "data", 2)
    output = run_warm(
        "train",
        data,
        TEXT,
        TRAIN.replace("--num-workers 0", "--num-workers 2"),
        f"--save-dir {tmp_path} --max-update 60 --held-out 0.2 --valid-subset heldout",
        "--best-checkpoint-metric accuracy --maximize-best-checkpoint-metric --sen-rep-type cls",
    )
    (best,) = re.findall(r'"heldout_best_accuracy": "([\d.]+)"', output)[-1:] or [None]
    assert best is not None and float(best) >= 90
    options = f"--task lra-text --path {tmp_path / 'checkpoint_best.pt'} --valid-subset heldout"
    scored = run_warm("validate", data, options, "--batch-size 5 --log-format simple")
    (accuracy,) = re.findall(r"accuracy ([\d.]+)", scored)[-1:]
    assert float(accuracy) == pytest.approx(float(best), abs=1e-3)
