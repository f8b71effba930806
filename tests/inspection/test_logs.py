"""``curves`` gives the values in fairseq's logs, in both of its formats."""

import logging

import pytest
from fairseq.logging import metrics, progress_bar

from fairseq_mega.inspection import curve_figures as figures
from fairseq_mega.inspection.logs import find_log, read_log, read_runs
from fairseq_mega.inspection.style import grouped

LOSSES = [5.5, 4.25, 3.125, 2.5, 2.0, 1.75]


def write_log(path, log_format, losses=LOSSES, words=False, first=1):
    """Writes a log with fairseq's loggers, of a training with these losses."""
    path.parent.mkdir(exist_ok=True)
    logging.disable(logging.NOTSET)  # which commands that a test has called leave set
    for handler in list(progress_bar.logger.handlers):
        progress_bar.logger.removeHandler(handler)
    bar = progress_bar.progress_bar(
        list(losses), log_format=log_format, log_interval=1, log_file=str(path), epoch=1
    )
    progress_bar.logger.setLevel("INFO")
    metrics.reset()
    for i, loss in enumerate(bar):
        with metrics.aggregate("train"):
            metrics.log_scalar("loss", loss, round=3)
            metrics.log_scalar("wps", 1000.0 + i, round=1)
            metrics.log_scalar("num_updates", first + i, weight=0)
            metrics.log_scalar("lr", 1e-3 / (i + 1), weight=0)
            metrics.log_scalar("gnorm", 0.5 + i, round=3)
            metrics.log_scalar("memory_longest", 100.0 * (i + 1), weight=0)
            metrics.log_scalar("memory_d0_median", 3.0 + i, weight=0)
        stats = metrics.get_smoothed_values("train")
        bar.log(stats, tag="train_inner", step=i + 1)
        metrics.reset_meters("train")
    bar.print(stats, tag="train", step=len(losses))
    for handler in list(progress_bar.logger.handlers):
        handler.close()
        progress_bar.logger.removeHandler(handler)
    last = first + len(losses) - 1
    with path.open("a") as file:
        if log_format == "json":
            line = f'{{"epoch": 1, "valid_loss": "1.5", "valid_num_updates": "{last}"}}\n'
        else:
            line = f"epoch 001 | valid on 'valid' subset | loss 1.5 | num_updates {last}\n"
            line += line.replace("'valid'", "'second'").replace("1.5", "7.5")
        file.write(line)
    if words:  # as printed
        lines = ["num. model params: 12", *path.read_text().splitlines()]
        path.write_text("".join(f"2026-01-01 10:00:00 | INFO | train | {line}\n" for line in lines))
    return path


@pytest.mark.parametrize("log_format, words", [("json", False), ("json", True), ("simple", True)])
def test_the_values_of_a_log(tmp_path, log_format, words):
    run = read_log(write_log(tmp_path / "train.log", log_format, words=words), "a")
    assert run.series("train_inner", "loss") == dict(enumerate(LOSSES, 1))
    assert run.series("train_inner", "wps") == {i: 999.0 + i for i in range(1, 7)}
    assert run.series("train_inner", "gnorm") == {i: i - 0.5 for i in range(1, 7)}
    rates = run.series("train_inner", "lr")
    assert rates == pytest.approx({i: 1e-3 / i for i in range(1, 7)}, rel=1e-5)
    assert run.series("train", "loss") == {6: 1.75}
    assert run.series("valid", "loss") == {6: 1.5}
    # A training that resumed from an earlier checkpoint, and whose last line is truncated.
    more = write_log(tmp_path / "b.log", log_format, [6.0, 5.0, 4.0], words, first=3)
    lines = more.read_text().splitlines()[words : words + 3]
    lines[2] = lines[2].partition("num_updates")[0]
    (tmp_path / "train.log").write_text((tmp_path / "train.log").read_text() + "\n".join(lines))
    resumed = read_log(tmp_path / "train.log", "a").series("train_inner", "loss")
    assert resumed == {**dict(enumerate(LOSSES, 1)), 3: 6.0, 4: 5.0}


def test_the_figures_show_the_values_of_several_logs(tmp_path):
    for name, losses in (("a", LOSSES), ("b", LOSSES[:4])):
        write_log(tmp_path / name / "train.log", "json", losses)
    write_log(tmp_path / "other/b.log", "json", LOSSES)
    runs = read_runs([tmp_path / "b", tmp_path / "other/b.log"])
    assert [run.name for run in runs] == ["b/train.log", "other/b.log"]
    runs = read_runs([tmp_path / "a", tmp_path / "b/train.log"])
    assert [run.name for run in runs] == ["a", "b"]
    assert figures.run_rows(runs)[1][2:] == (6, 1.75, 1.5)
    rows = figures.curve_rows(runs)
    lines = grouped(rows[1:], 3)
    assert lines["loss", "a", "training"] == list(enumerate(LOSSES, 1))
    for axes, metric in zip(figures.curve_figure(rows).axes, figures.PANELS):
        drawn = [[tuple(point) for point in line.get_xydata()] for line in axes.lines]
        names = [(run, part) for run in "ab" for part in ("training", "validation")]
        assert drawn == [lines.get((metric, *name), []) for name in names]
    rows = figures.memory_rows(runs)
    spans = grouped(rows[1:], 3)
    assert spans["a", "model", "longest"] == [(i, 100 * i) for i in range(1, 7)]
    assert spans["b", "d0", "median"] == [(i, 2 + i) for i in range(1, 5)]
    axes = figures.memory_figure(rows).axes
    assert [[tuple(p) for p in line.get_xydata()] for each in axes for line in each.lines] == [
        *spans.values()
    ]


def test_bad_logs(tmp_path):
    (tmp_path / "cut.txt").write_text('{"epoch": 1, "update": 0.1, "lo')
    with pytest.raises(ValueError, match="cut.txt holds no complete line of a training"):
        read_runs([tmp_path / "cut.txt"])
    with pytest.raises(FileNotFoundError, match=f"no log at {tmp_path}.*--log-file"):
        find_log(tmp_path)
