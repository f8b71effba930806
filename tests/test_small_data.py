"""The comparison on natural sentences: its commands, and its tables of logs that are known."""

import json
import math

import pytest
from fairseq.options import get_generation_parser, get_training_parser, parse_args_and_arch

from examples.experiments import small_data

UPDATES = (100, 200)


def arguments(tmp_path, words="--seeds 1 2 --updates 600"):
    words = f"{words} --data {tmp_path / 'data'} --workdir {tmp_path / 'out'}"
    return small_data.parse(words.split())


def write_trial(trial, loss, hypotheses):
    """What fairseq-train and fairseq-generate print: bits and seconds in JSON, translations."""
    rows = ["2026-01-01 | INFO | num. shared model params: 6,905,216 (num. trained: ...)"]
    rows += ["2026-01-01 | INFO | {'_name': None, 'common': {'seed': 1}}"]
    for updates in UPDATES:
        numbers = {"valid_nll_loss": str(loss / updates), "valid_bleu": "12.5", "valid_loss": "9"}
        inner = {"epoch": 1, "num_updates": str(updates), "train_wall": "50"}  # of these 100
        rows.append(f"2026-01-01 | INFO | train_inner | {json.dumps(inner)}")
        row = {"epoch": 1, **numbers, "valid_num_updates": str(updates)}
        rows.append(f"2026-01-01 | INFO | valid | {json.dumps(row)}")
        # "train_" and "wall": the seconds of the whole process
        epoch = {"epoch": 1, "train_num_updates": str(updates), "train_wall": "999"}
        rows.append(f"2026-01-01 | INFO | train | {json.dumps(epoch)}")
    for step, text in (
        (trial.training, rows),
        (trial.test, [f"H-{i}\t-0.5\t{x}" for i, x in enumerate(hypotheses)]),
    ):
        step.folder.mkdir(parents=True)
        step.log.write_text("\n".join(text) + "\n")


def test_both_models_train_alike(tmp_path):
    trials = small_data.trials_of(arguments(tmp_path))
    assert [(trial.model, trial.seed) for trial in trials] == [
        ("mega", 1), ("transformer", 1), ("mega", 2), ("transformer", 2),
    ]  # fmt: skip
    seen = []
    for trial in trials:
        (words,), (test,) = trial.training.commands, trial.test.commands
        args = parse_args_and_arch(get_training_parser(), words[1:])
        assert args.arch == {"mega": "mega_iwslt_de_en"}.get(trial.model, trial.model)
        assert args.seed == trial.seed and args.dropout == 0.15 and args.attention_dropout == 0.1
        assert args.max_update == args.total_num_update == 600 and args.warmup_updates == 200
        assert args.validate_interval_updates == args.log_interval == 100
        assert args.lr == [{"mega": 4e-3, "transformer": 2e-3}[trial.model]]
        seen.append((args.max_tokens, args.clip_norm, args.adam_betas, args.warmup_updates))
        args = parse_args_and_arch(get_generation_parser(), test[1:])
        assert args.path == str(trial.training.folder / "checkpoint_last.pt") and args.beam == 5
    assert len(set(map(str, seen))) == 1


def test_on_a_gpu(tmp_path, monkeypatch):
    for words, expected in (("", "--cpu"), ("--gpu", "--distributed-world-size 1")):
        trial = small_data.trials_of(arguments(tmp_path, f"{words} --seeds 1"))[0]
        for (command,) in (trial.training.commands, trial.test.commands):
            common = " ".join(command).split(f"{tmp_path / 'data' / 'data-bin'} ")[1]
            assert common.startswith(f"--user-dir fairseq_mega {expected} -")
            assert ("--cpu" in command) == (not words)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="--gpu: torch .* sees no GPU"):
        small_data.main(["--gpu", "--data", str(tmp_path), "--workdir", str(tmp_path / "out")])


def test_a_learning_rate_is_that_of_both(tmp_path):
    trials = small_data.trials_of(arguments(tmp_path, "--lr 1e-3"))
    for trial in trials:
        (words,) = trial.training.commands
        assert words[words.index("--lr") + 1] == "1e-3"


def test_options_of_one_model(tmp_path):
    data, out = ["--data", str(tmp_path / "data")], ["--workdir", str(tmp_path / "out")]
    words = small_data.parse(["--mega", "--dropout 0.3", "--seeds", "1", *data, *out])
    for trial in small_data.trials_of(words):
        (train,) = trial.training.commands
        args = parse_args_and_arch(get_training_parser(), train[1:])
        assert args.dropout == {"mega": 0.3, "transformer": 0.15}[trial.model]


def test_tables_have_the_curves_and_a_paired_test(tmp_path, capsys):
    args = arguments(tmp_path)
    (args.data / "data-bin").mkdir(parents=True)
    (args.data / "text").mkdir()
    (args.data / "data-bin/test.en-de.de.idx").touch()
    references = [f"das ist der {i} Satz von allen hier" for i in range(40)]
    (args.data / "text/test.de").write_text("\n".join(references) + "\n")
    trials = small_data.trials_of(args)
    worse = [text.replace("Satz", "Katze") if i % 2 else text for i, text in enumerate(references)]
    for trial in trials:
        mega = trial.model == "mega"
        write_trial(trial, 300 * trial.seed if mega else 600, references if mega else worse)
    small_data.report(args, trials)
    text = (args.workdir / "results.md").read_text()
    assert text in capsys.readouterr().out
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.split("\n")]
    curve = {row[0]: row[1:] for row in rows if row and row[0] in map(str, UPDATES)}
    nats = math.log(2)
    assert curve["100"] == ["50", f"{4.5 * nats:.3f}", "12.5", "50", f"{6 * nats:.3f}", "12.5"]
    assert curve["200"][:2] == ["100", f"{2.25 * nats:.3f}"]
    scores = [row for row in rows if len(row) == 5 and row[1] in small_data.MODELS]
    assert [row[:3] for row in scores[:2]] == [
        ["1", "transformer", "6,905,216"],
        ["1", "mega", "6,905,216"],
    ]
    assert scores[1][3].startswith("100.0 (") and float(scores[1][4]) < 0.05
    assert float(scores[0][3].split()[0]) < 90 and scores[0][4] == ""


def test_data_that_are_not_there_are_named(tmp_path):
    with pytest.raises(SystemExit, match="data: no data-bin is there: .*prepare.py"):
        small_data.main(["--data", str(tmp_path / "data")])
