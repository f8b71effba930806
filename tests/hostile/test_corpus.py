"""A corpus of hostile files, each in one or two of its entries: `make hostile` has all of them."""

import corpus
import judge
import pytest


@pytest.fixture(scope="module")
def attempts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "files"
    folder.mkdir()
    corpus.write(folder)
    return judge.attempt(folder, "--every", "7")


def test_no_code_runs_no_file_changes_and_every_error_says_what_and_where(attempts):
    _, problems = attempts
    assert not problems


def test_every_file_and_every_entry_has_its_turn(attempts):
    found, _ = attempts
    assert len({(kind, file) for kind, file, *_ in found}) >= 220
    entries = {entry for _, _, entry, _ in found}
    assert entries >= judge.OURS | {"restore", "finetune", "state", "load_with_task"}
    assert entries >= {"only_load", "load_for_task", "load_for_long_text"}
