"""Hostile checkpoints, given to ``inspect``: no code runs, and every error says what is wrong."""

import corpus
import judge

from fairseq_mega.inspection.memory import bias_rows, kernel_rows, memory_rows
from fairseq_mega.inspection.weights import read_weights


def test_no_code_runs_and_every_error_names_the_file(tmp_path):
    corpus.write(tmp_path)
    before, read = judge.contents(tmp_path), []
    paths = [path for kind in corpus.KINDS for path in sorted((tmp_path / kind).iterdir())]
    for path in paths:
        try:
            layers = read_weights(str(path)).layers
            assert all(len(make(layers)) > 1 for make in (memory_rows, kernel_rows, bias_rows))
            read.append(path.name)
        except (ValueError, OSError) as error:
            assert str(path)[:60] in str(error), error
    assert judge.contents(tmp_path) == before
    assert len(paths) >= 220 and read.count("honest") == len(corpus.KINDS)
    assert not set(read) & corpus.REFUSED_BY_TORCH
