"""The comparison of language models on a manual: its commands, and its tables of known logs."""

import json
import shlex

import pytest
from fairseq.options import get_eval_lm_parser, parse_args_and_arch
from helpers import build, parse

from examples.experiments import small_text


def arguments(tmp_path, words="--seeds 1 2 --updates 600"):
    words = f"{words} --data {tmp_path / 'data'} --workdir {tmp_path / 'out'}"
    return small_text.parse(words.split())


@pytest.mark.parametrize("symbols, words", [("subwords", 4000), ("bytes", 168)])
def test_models_train_alike_and_are_of_one_size(tmp_path, symbols, words):
    trials = small_text.trials_of(arguments(tmp_path, f"--symbols {symbols} --seeds 7"))
    assert [trial.model for trial in trials] == ["mega", "mega-normal", "transformer"]
    seen, sizes = [], []
    for trial in trials:
        ((_, _, *options),) = trial.training.commands
        cfg = parse(shlex.join(options))
        assert cfg.dataset.max_tokens % cfg.task.tokens_per_sample == 0
        same = cfg.optimization, cfg.lr_scheduler, cfg.dataset.validate_interval_updates
        seen.append([*same, cfg.dataset.max_tokens, cfg.model.dropout, cfg.common.seed])
        model = build(shlex.join(options), words)
        sizes.append(sum(parameter.numel() for parameter in model.parameters()))
        for step in trial.tests.values():
            ((program, *options),) = step.commands
            args = parse_args_and_arch(get_eval_lm_parser(), options)
            assert program == "fairseq-eval-lm"
            assert args.path == str(trial.training.folder / "checkpoint_last.pt")
    assert seen[0] == seen[1] == seen[2]
    assert max(sizes) < 1.01 * min(sizes)


def test_options_of_one_model(tmp_path):
    args = small_text.parse(["--mega-normal", "--dropout 0.3", "--workdir", str(tmp_path)])
    args.data = tmp_path
    for trial in small_text.trials_of(args):
        ((_, _, *options),) = trial.training.commands
        dropout = parse(shlex.join(options)).model.dropout
        assert dropout == {"mega-normal": 0.3}.get(trial.model, 0.1)


def test_tables_have_the_curves_and_the_tests(tmp_path, capsys):
    args = arguments(tmp_path)
    args.workdir.mkdir()
    trials = small_text.trials_of(args)
    for trial in trials:
        bits = {"mega": 3.0, "mega-normal": 3.5, "transformer": 4.0}[trial.model] + trial.seed
        inner = json.dumps({"epoch": 1, "num_updates": "100", "train_wall": "50"})
        valid = json.dumps({"epoch": 1, "valid_loss": str(bits), "valid_num_updates": "100"})
        log = f"| INFO | num. shared model params: 2,905,216 (\n| x | {inner}\n| x | {valid}\n"
        test = f"INFO | Loss (base 2): {bits + 1:.4f}, Perplexity: 1.00\n"
        for step, text in [(trial.training, log), *((x, test) for x in trial.tests.values())]:
            step.folder.mkdir(parents=True)
            step.log.write_text(text)
    small_text.report(args, trials)
    text = (args.workdir / "results.md").read_text()
    assert text in capsys.readouterr().out
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.split("\n")]
    assert ["100", "50", "4.500", "50", "5.000", "50", "5.500"] in rows  # means of seeds 1 and 2
    assert ["1", "mega", "2,905,216", "blocks of 1024", "5.0000", "32.000"] in rows
    assert ["2", "transformer", "2,905,216", "blocks of 512", "7.0000", "128.000"] in rows
    assert sum(row[1:2] == ["mega-normal"] for row in rows) == 2 * 7


def test_data_that_do_not_fit_are_named(tmp_path, capsys):
    data, where = tmp_path / "data", ["--workdir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="data: no data-bin is there: .*prepare.py"):
        small_text.main(["--data", str(data), *where])
    (data / "data-bin").mkdir(parents=True)
    (data / "settings.json").write_text(json.dumps({"symbols": "bytes"}))
    with pytest.raises(SystemExit, match="--symbols is subwords, but .*data has bytes"):
        small_text.main(["--data", str(data), *where])
    with pytest.raises(SystemExit):
        small_text.main(["--data", str(data)])
    assert "--data needs a --workdir" in capsys.readouterr().err
