"""``curves`` gives the numbers in the logs of fairseq, in both of its formats."""

import logging

import numpy as np
import pytest
from fairseq.logging import metrics, progress_bar

from fairseq_mega.inspection import curve_pictures as pictures
from fairseq_mega.inspection.logs import find_log, read_log, read_runs

LOSSES = [5.5, 4.25, 3.125, 2.5, 2.0, 1.75]


def write_log(path, log_format, losses=LOSSES, words=False, first=1):
    """What fairseq's own loggers write of a training with these losses."""
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
            metrics.log_scalar("memory_d0_longest", 100.0 * (i + 1), weight=0)
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
        file.write(line)
    if words:  # as on the screen
        lines = path.read_text().splitlines()
        stamp = "2026-01-01 10:00:00 | INFO | train_inner | "
        head = "2026-01-01 | INFO | fairseq_cli.train | num. model params: 12\n"
        path.write_text(head + "".join(f"{stamp}{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("words", [False, True], ids=["log-file", "screen"])
@pytest.mark.parametrize("log_format", ["json", "simple"])
def test_the_numbers_of_a_log(tmp_path, log_format, words):
    run = read_log(write_log(tmp_path / "train.log", log_format, words=words), "a")
    assert run.series("train_inner", "loss") == dict(enumerate(LOSSES, 1))
    assert run.series("train_inner", "wps") == {i: 999.0 + i for i in range(1, 7)}
    assert run.series("train_inner", "gnorm") == {i: i - 0.5 for i in range(1, 7)}
    rates = run.series("train_inner", "lr")
    assert rates == pytest.approx({i: 1e-3 / i for i in range(1, 7)}, rel=1e-5)
    assert run.series("train", "loss") == {6: 1.75}
    assert run.series("valid", "loss") == {6: 1.5}
    assert pictures.memory_layers(run) == ["d0"] and not run.unread


def test_the_picture_shows_the_numbers_of_several_logs(tmp_path):
    for name, losses in (("a", LOSSES), ("b", LOSSES[:4])):
        write_log(tmp_path / name / "train.log", "json", losses)
    runs = read_runs([tmp_path / "a", tmp_path / "b/train.log"])
    assert [run.name for run in runs] == ["a", "b"]
    figure = pictures.curve_figure(runs)
    labels = ["loss (bits)", "learning rate", "gradient norm", "speed (tokens/s)"]
    assert [axes.get_ylabel() for axes in figure.axes] == labels
    assert {axes.get_xlabel() for axes in figure.axes} == {"updates"}
    rows = pictures.curve_rows(runs)[1:]
    for axes, (metric, _) in zip(figure.axes, pictures.PANELS):
        lines = {line.get_label(): line for line in axes.lines}
        for run in ("a", "b"):
            points = [r[3:] for r in rows if r[:3] == (run, "train_inner", metric)]
            assert [*zip(*lines[run].get_data())] == points
    losses = {line.get_label(): line for line in figure.axes[0].lines}
    assert losses["a, validation"].get_data()[1].tolist() == [1.5]
    styles = {(losses[n].get_linestyle(), losses[n].get_marker()) for n in ("a", "b")}
    assert len(styles) == 2


def test_the_picture_of_memory_shows_both_statistics(tmp_path):
    (run,) = read_runs([write_log(tmp_path / "train.log", "json")])
    (axes,) = pictures.memory_figure([run]).axes
    longest, median = axes.lines
    assert longest.get_ydata().tolist() == [100 * i for i in range(1, 7)]
    assert median.get_ydata().tolist() == [2 + i for i in range(1, 7)]
    assert longest.get_linestyle() != median.get_linestyle()
    assert axes.get_ylabel() == "half-life (tokens)" and axes.get_yscale() == "log"
    drawn = np.concatenate([longest.get_ydata(), median.get_ydata()]).tolist()
    assert drawn == [row[4] for row in pictures.memory_rows([run])[1:]]


def test_a_training_that_went_on_from_an_earlier_checkpoint(tmp_path):
    first = write_log(tmp_path / "a.log", "json", [9.0, 8.0, 7.0])
    second = write_log(tmp_path / "b.log", "json", [6.0, 5.0], first=3)
    (tmp_path / "train.log").write_text(first.read_text() + second.read_text())
    run = read_log(tmp_path / "train.log", "a")
    assert run.series("train_inner", "loss") == {1: 9.0, 2: 8.0, 3: 6.0, 4: 5.0}


def test_of_several_validation_sets_the_first_counts(tmp_path):
    log = write_log(tmp_path / "train.log", "json")
    with log.open("a") as file:
        file.write('{"epoch": 1, "dev_loss": "7.5", "dev_num_updates": "6"}\n')
        file.write("epoch 001 | valid on 'dev' subset | loss 8.5 | num_updates 6\n")
        file.write('{"epoch": 1, "other": "lines"}\n')
    run = read_log(log, "a")
    assert run.series("valid", "loss") == {6: 1.5} and not run.unread


@pytest.mark.parametrize("log_format", ["json", "simple"])
def test_a_line_that_is_cut_is_left_out_and_named(tmp_path, log_format):
    log = write_log(tmp_path / "train.log", log_format)
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:3], lines[3][:25]]))
    run = read_log(log, "a")
    assert run.series("train_inner", "loss") == dict(enumerate(LOSSES[:3], 1))
    assert run.unread == [4]
    (section,) = pictures.curve_sections([run])
    assert "left out, as they are cut: lines 4" in " ".join(section.text)


def test_bad_logs(tmp_path):
    (tmp_path / "empty.log").touch()
    with pytest.raises(ValueError, match="empty.log holds no line of a training with a loss:"):
        read_runs([tmp_path / "empty.log"])
    (tmp_path / "cut.log").write_text('{"epoch": 1, "update": 0.1, "lo')
    with pytest.raises(ValueError, match=r"lines \[1\], the end is missing"):
        read_runs([tmp_path / "cut.log"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="no log in .*folder.*--log-file"):
        find_log(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match="no log or folder at"):
        find_log(tmp_path / "nosuch")
    log = write_log(tmp_path / "train.log", "json")
    with pytest.raises(ValueError, match="given twice"):
        read_runs([log, log])
