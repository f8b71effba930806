"""Manuals: on a small package of the layout of Debian's python3.11-doc."""

import os

import pytest
from archives import deb, needs_dpkg
from fairseq.data import Dictionary
from fairseq.data.data_utils import load_indexed_dataset

from examples import debian
from examples.language_modeling import manuals, prepare

SPLITS = ("train", "valid", "test")


def page(i):
    rows = [f"word{(i + j) % 40:02} of   line {j} on page {i:02} \t" for j in range(20)]
    return "\n\n".join([f"Page {i:02}", "=======", *rows]) + "\n"


def make_package(downloads, count):
    downloads.mkdir(parents=True)
    pages = {f"usr/share/doc/x/_sources/{i:02}.rst.txt": page(i) for i in range(count)}
    pages["usr/share/doc/x/_sources/copy.rst.txt"] = page(0)
    pages["usr/share/doc/x/00.html"] = "<p>no source</p>"
    deb(downloads, "x-doc", pages)


@needs_dpkg
@pytest.mark.parametrize("symbols", ["subwords", "bytes"])
def test_pages_go_whole_to_one_split_each(tmp_path, symbols):
    make_package(tmp_path / "downloads", 100)
    words = f"manual --package x-doc --symbols {symbols} --vocab-size 30 --workers 1 --workdir"
    prepare.main([*words.split(), str(tmp_path)])
    found = {}
    for split in SPLITS:
        text = (tmp_path / "text" / split).read_text()
        assert text.endswith("\n\n")
        found[split] = text.removesuffix("\n\n").split("\n\n")
    assert [len(found[split]) for split in SPLITS] == [94, 3, 3]
    expected = [
        "\n".join(line.rstrip() for line in page(i).split("\n") if line.strip()) for i in range(100)
    ]
    assert sorted(sum(found.values(), [])) == sorted(expected)

    data = tmp_path / "data-bin"
    dictionary = Dictionary.load(str(data / "dict.txt"))
    dataset = load_indexed_dataset(str(data / "test"), dictionary)
    lines = [line for text in found["test"] for line in [*text.split("\n"), ""]]
    assert len(dataset) == len(lines) and sum(len(row) == 1 for row in dataset) == 3
    size, characters = (
        sum(map(len, dataset)),
        sum(len(" ".join(line.split())) + 1 for line in lines),
    )
    assert size == characters if symbols == "bytes" else size < characters


def put_apt_get(tmp_path, monkeypatch, script):
    """An apt-get that runs this script where it is to download."""
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@needs_dpkg
def test_a_package_is_downloaded_whole_or_not_at_all(tmp_path, monkeypatch):
    make_package(tmp_path / "archive", 1)
    file = tmp_path / "archive" / "x-doc_1_all.deb"
    put_apt_get(tmp_path, monkeypatch, f"cp {file} . && [ -e {tmp_path / 'works'} ]")
    downloads = tmp_path / "downloads"
    with pytest.raises(debian.PreparationError, match="apt-get download x-doc failed"):
        debian.package("x-doc", downloads)
    assert not list(downloads.iterdir())
    (tmp_path / "works").touch()
    assert debian.package("x-doc", downloads).read_bytes() == file.read_bytes()
    assert [path.name for path in downloads.iterdir()] == [file.name]
    (downloads / "x-doc_2_all.deb").touch()
    with pytest.raises(debian.PreparationError, match="has x-doc_1_all.deb, x-doc_2_all.deb: one"):
        debian.package("x-doc", downloads)


@needs_dpkg
def test_a_damaged_package_is_named(tmp_path):
    file = tmp_path / "x-doc_1_all.deb"
    file.write_bytes(b"no package")
    with pytest.raises(debian.PreparationError, match="x-doc_1_all.deb is damaged: delete it"):
        debian.unpack(file, tmp_path / "out")


@needs_dpkg
def test_a_package_without_sources_is_refused(tmp_path):
    make_package(tmp_path / "downloads", 3)
    with pytest.raises(SystemExit, match="x-doc has 3 pages named .*3% .*give another --package"):
        prepare.main(["manual", "--package", "x-doc", "--workdir", str(tmp_path)])
    assert not (tmp_path / "text").exists()


def test_a_long_page_is_for_training():
    splits = manuals.split_by_page(["long " * 100, *(f"page {i}\n" for i in range(40))])
    assert "long " * 100 in splits["train"] and splits["valid"] and splits["test"]
