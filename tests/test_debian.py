"""Texts from Debian packages, in the layout of LibreOffice's help and of manuals."""

import os
import shutil

import pytest
from archives import deb
from fairseq.data import Dictionary
from fairseq.data.data_utils import load_indexed_dataset

from examples import debian
from examples.language_modeling import prepare as language_modeling
from examples.steps import SPLITS, PreparationError
from examples.translation import help_pages
from examples.translation import prepare as translation

needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs Debian's dpkg-deb")
SYSTEMS = (
    '<span id="swl_1" class="switchinline"><span hidden="true" id="MAC_1"><b>Preferences</b></span>'
    '<span hidden="true" id="default_1"><b>Options</b></span></span>'
)
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]

# --- help pages ---------------------------------------------------------------------------------


def help_page(texts):
    """Page of paragraphs with the ids par_id0, ..."""
    rows = (f'<p id="par_id{i}" class="paragraph">{text}</p>' for i, text in enumerate(texts))
    return f'<html><head><meta name="x"></head><body><div>{"".join(rows)}</div></body></html>'


def sentence(page, line, language):
    """A sentence of its own for each page and line."""
    verb, article = ("opens", "the") if language == "en" else ("öffnet", "das")
    words = " ".join(WORDS[(page // 8**k + k * line) % 8] + language for k in range(3))
    return f"{words} {verb} {article} {WORDS[line]}{language}{'i' * page} now."


def make_help_packages(downloads):
    """English and German pages, and a package -fr that has no French ones."""
    for folder, language in (("en-US", "en"), ("de", "de"), ("fr", "en")):
        place = f"usr/share/libreoffice/help/{'en-US' if language == 'en' else 'de'}/text"
        pages = {
            f"{place}/{i:02}.html": help_page([sentence(i, j, language) for j in range(8)])
            for i in range(30)
        }
        pages[f"{place}/only-{language}.html"] = help_page(["Here is a page without translation."])
        deb(downloads, f"libreoffice-help-{folder.lower()}", pages)


def test_paragraphs_are_read_by_their_ids_without_hidden_texts(tmp_path):
    text = help_page([f'Choose<br>{SYSTEMS} &amp; <a href="x">go <img src="y">on</a>.', "Two <i>x"])
    text += '<h2 id="hd_id7">A <i>heading</i></h2><p id="bm_1">no</p><p>no</p>'
    text += '<p class="bascode" id="par_id8">Print</p>'
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    assert help_pages.paragraphs(tmp_path / "page.html") == {
        "par_id0": "Choose Options & go on.",
        "par_id1": "Two x",
        "hd_id7": "A heading",
    }


def test_only_translated_sentences_are_kept():
    pairs = help_pages.sentences("See this. Then go.", "Sieh her. Dann geh.")
    assert pairs == [("See this.", "Sieh her."), ("Then go.", "Dann geh.")]
    uneven = ("See e.g. this. Then go.", "Sieh, dann geh.")
    assert help_pages.sentences(*uneven) == [uneven]

    def is_clean(target):
        return help_pages.is_clean(("Choose the command in the menu.", target))

    assert is_clean("Wählen Sie den Befehl in diesem Menü.")
    for target in (
        "Wählen Sie den Befehl in diesem Menü",  # no end
        "Wählen Sie ihn.",  # three words
        "Choose the command in the Menü.",  # not translated
        "Wählen Sie 0,1,2,3,4,5,6,7,8,9 im Menü.",  # numbers
        "Wählen Sie den Befehl in diesem Menü, " + "das sich öffnet, " * 3 + "aus.",
    ):
        assert not is_clean(target), target


def test_no_sentence_to_train_on_is_in_valid_or_test():
    shared = (sentence(99, 0, "en"), sentence(99, 0, "de"))
    pages = [
        [shared, *((sentence(i, j, "en"), sentence(i, j, "de")) for j in range(4)),
         (shared[0], sentence(i, 5, "de"))]
        for i in range(20)
    ]  # fmt: skip
    splits = help_pages.split_by_page(iter(pages), 10)
    train = {text for pair in splits["train"] for text in pair}
    for split in ("valid", "test"):
        assert 5 <= len(splits[split]) <= 10
        assert all(train.isdisjoint(pair) for pair in splits[split])
    pairs = sum(splits.values(), [])
    assert len(pairs) == len(set(pairs))
    with pytest.raises(PreparationError, match="--held-out 3: .* a quarter of the 9 pairs"):
        help_pages.split_by_page(iter(pages[:2]), 3)


@needs_dpkg
def test_help_pages_from_packages_to_binarised_data(tmp_path):
    make_help_packages(tmp_path / "work/downloads")
    words = f"help --held-out 20 --vocab-size 120 --workers 1 --workdir {tmp_path / 'work'}"
    translation.main(words.split())
    for split, count in (("train", 192), ("valid", 20), ("test", 20)):
        rows = [
            (tmp_path / f"work/text/{split}.{x}").read_text().splitlines() for x in ("en", "de")
        ]
        assert len(rows[0]) == len(rows[1]) == count
        assert all(en.split()[0][:-2] == de.split()[0][:-2] for en, de in zip(*rows))
        assert (tmp_path / f"work/data-bin/{split}.en-de.de.idx").stat().st_size > 0
    (tmp_path / "work").rename(tmp_path / "fr")
    shutil.rmtree(tmp_path / "fr/text")
    (tmp_path / "fr/settings.json").unlink()
    with pytest.raises(SystemExit, match="libreoffice-help-fr has no pages in usr/share"):
        translation.main(["help", "--target-lang", "fr", "--workdir", str(tmp_path / "fr")])


# --- manuals ------------------------------------------------------------------------------------


def manual_page(i):
    rows = [f"word{(i + j) % 40:02} of   line {j} on page {i:02} \t" for j in range(20)]
    return "\n\n".join([f"Page {i:02}", "=======", *rows]) + "\n"


def make_manual(downloads, count):
    pages = {f"usr/share/doc/x/_sources/{i:02}.rst.txt": manual_page(i) for i in range(count)}
    pages["usr/share/doc/x/_sources/copy.rst.txt"] = manual_page(0)
    pages["usr/share/doc/x/00.html"] = "<p>no source</p>"
    deb(downloads, "x-doc", pages)


@needs_dpkg
@pytest.mark.parametrize("symbols", ["subwords", "bytes"])
def test_pages_go_whole_to_one_split_each(tmp_path, symbols):
    make_manual(tmp_path / "downloads", 100)
    words = f"manual --package x-doc --symbols {symbols} --vocab-size 30 --workers 1 --workdir"
    language_modeling.main([*words.split(), str(tmp_path)])
    found = {}
    for split in SPLITS:
        text = (tmp_path / "text" / split).read_text()
        assert text.endswith("\n\n")
        found[split] = text.removesuffix("\n\n").split("\n\n")
    assert [len(found[split]) for split in SPLITS] == [94, 3, 3]
    expected = [
        "\n".join(line.rstrip() for line in manual_page(i).split("\n") if line.strip())
        for i in range(100)
    ]
    assert sorted(sum(found.values(), [])) == sorted(expected)
    data = tmp_path / "data-bin"
    dataset = load_indexed_dataset(str(data / "test"), Dictionary.load(str(data / "dict.txt")))
    lines = [line for text in found["test"] for line in [*text.split("\n"), ""]]
    assert len(dataset) == len(lines) and sum(len(row) == 1 for row in dataset) == 3
    size = sum(map(len, dataset))
    characters = sum(len(" ".join(line.split())) + 1 for line in lines)
    assert size == characters if symbols == "bytes" else size < characters


@needs_dpkg
def test_a_package_without_sources_is_refused(tmp_path):
    make_manual(tmp_path / "downloads", 3)
    with pytest.raises(SystemExit, match="x-doc has 3 pages named .*3% .*give another --package"):
        language_modeling.main(["manual", "--package", "x-doc", "--workdir", str(tmp_path)])
    assert not (tmp_path / "text").exists()


# --- packages -----------------------------------------------------------------------------------


@needs_dpkg
def test_a_package_is_downloaded_whole_or_not_at_all(tmp_path, monkeypatch):
    """This apt-get fails after the copy until the file `works` exists."""
    make_manual(tmp_path / "archive", 1)
    file = tmp_path / "archive" / "x-doc_1_all.deb"
    program, downloads = tmp_path / "bin/apt-get", tmp_path / "downloads"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncp {file} . && [ -e {tmp_path / 'works'} ]\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(PreparationError, match="apt-get download x-doc failed"):
        debian.unpack("x-doc", downloads, tmp_path / "out")
    assert not list(downloads.iterdir())
    (tmp_path / "works").touch()
    debian.unpack("x-doc", downloads, tmp_path / "out")
    assert (tmp_path / "out/usr/share/doc/x/00.html").exists()
    (downloads / file.name).write_bytes(b"no package")
    with pytest.raises(PreparationError, match="x-doc_1_all.deb is damaged: delete it"):
        debian.unpack("x-doc", downloads, tmp_path / "out")


def test_without_apt_the_programs_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="apt-get, dpkg-deb not found: .* Debian"):
        translation.main(["help", "--workdir", str(tmp_path)])
