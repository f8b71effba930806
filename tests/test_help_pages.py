"""Parallel sentences of help pages: on small packages of the layout of LibreOffice's."""

import pytest
from archives import deb, needs_dpkg

from examples.translation import help_pages, prepare

SYSTEMS = (
    '<span id="swl_1" class="switchinline"><span hidden="true" id="MAC_1"><b>Preferences</b></span>'
    '<span hidden="true" id="default_1"><b>Options</b></span></span>'
)
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]


def page(texts):
    """A page of paragraphs with the ids par_id0, ..."""
    rows = (f'<p id="par_id{i}" class="paragraph">{text}</p>' for i, text in enumerate(texts))
    return f'<html><head><meta name="x"></head><body><div>{"".join(rows)}</div></body></html>'


def sentence(page, line, language):
    """A sentence of its own for each page and line."""
    verb, article = ("opens", "the") if language == "en" else ("öffnet", "das")
    words = " ".join(WORDS[(page // 8**k + k * line) % 8] + language for k in range(3))
    return f"{words} {verb} {article} {WORDS[line]}{language}{'i' * page} now."


def make_package(folder, language, pages):
    """A .deb of `pages`, texts by their names."""
    name = f"libreoffice-help-{language.lower()}"
    place = f"usr/share/libreoffice/help/{language}/text"
    deb(folder, name, {f"{place}/{page}": text for page, text in pages.items()})


def texts_of(text, tmp_path):
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    return help_pages.paragraphs(tmp_path / "page.html")


def test_paragraphs_are_read_by_their_ids_without_hidden_texts(tmp_path):
    text = page([f'Choose<br>{SYSTEMS} &amp; <a href="x">go <img src="y">on</a>.', "Two."])
    text += '<h2 id="hd_id7">A <i>heading</i></h2><p id="bm_1">no</p><p>no</p>'
    text += '<p class="bascode" id="par_id8">Print</p>'
    assert texts_of(text, tmp_path) == {
        "par_id0": "Choose Options & go on.",
        "par_id1": "Two.",
        "hd_id7": "A heading",
    }


def test_an_element_that_is_left_open_does_not_swallow_the_page(tmp_path):
    text = page(["One <i>of them.", "Two </b>of them."])
    assert texts_of(text, tmp_path) == {"par_id0": "One of them.", "par_id1": "Two of them."}


def test_paragraphs_are_cut_where_both_languages_have_as_many_sentences():
    assert help_pages.sentences("See this. Then go.", "Sieh her. Dann geh.") == [
        ("See this.", "Sieh her."),
        ("Then go.", "Dann geh."),
    ]
    assert help_pages.sentences("See e.g. this. Then go.", "Sieh, dann geh.") == [
        ("See e.g. this. Then go.", "Sieh, dann geh.")
    ]


@pytest.mark.parametrize(
    "target, clean",
    [
        ("Wählen Sie den Befehl in diesem Menü.", True),
        ("Wählen Sie den Befehl in diesem Menü", False),  # no end
        ("Wählen Sie ihn.", False),  # three words
        ("Choose the command in the Menü.", False),  # not translated
        ("Wählen Sie 0,1,2,3,4,5,6,7,8,9 im Menü.", False),  # numbers
        ("Wählen Sie den Befehl in diesem Menü, " + "das sich öffnet, " * 3 + "aus.", False),
    ],
)
def test_only_translated_sentences_are_clean(target, clean):
    assert help_pages.is_clean(("Choose the command in the menu.", target)) is clean


def test_no_sentence_to_train_on_is_in_valid_or_test():
    shared = [(sentence(99, 0, "en"), sentence(99, 0, "de"))]
    pages = [
        shared + [(sentence(i, j, "en"), sentence(i, j, "de")) for j in range(4)] for i in range(20)
    ]
    one_sided = [(shared[0][0], f"{sentence(i, 5, 'de')}") for i in range(20)]
    splits = help_pages.split_by_page(
        iter([pairs + [odd] for pairs, odd in zip(pages, one_sided)]), 10
    )
    train = {text for pair in splits["train"] for text in pair}
    for split in ("valid", "test"):
        assert 5 <= len(splits[split]) <= 10
        assert all(train.isdisjoint(pair) for pair in splits[split])
    pairs = [pair for split in splits.values() for pair in split]
    assert len(pairs) == len(set(pairs))


def test_too_few_sentences_are_refused():
    pages = [[(sentence(0, j, "en"), sentence(0, j, "de"))] for j in range(8)]
    with pytest.raises(prepare.PreparationError, match="--held-out 3: .* a quarter of the 8 pairs"):
        help_pages.split_by_page(iter(pages), 3)


@needs_dpkg
def test_from_packages_to_binarised_data(tmp_path, capsys):
    downloads = tmp_path / "work/downloads"
    downloads.mkdir(parents=True)
    for folder, language in (("en-US", "en"), ("de", "de")):
        pages = {
            f"part/{i:02}.html": page([sentence(i, j, language) for j in range(8)])
            for i in range(30)
        }
        pages[f"only-{language}.html"] = page(["Here is a page without any translation."])
        make_package(downloads, folder, pages)
    words = f"help --held-out 20 --vocab-size 120 --workers 1 --workdir {tmp_path / 'work'}"
    prepare.main(words.split())
    for split, count in (("train", 192), ("valid", 20), ("test", 20)):
        rows = [
            (tmp_path / f"work/text/{split}.{x}").read_text().splitlines() for x in ("en", "de")
        ]
        assert len(rows[0]) == len(rows[1]) == count
        assert all(en.split()[0][:-2] == de.split()[0][:-2] for en, de in zip(*rows))
        assert (tmp_path / f"work/data-bin/{split}.en-de.de.idx").stat().st_size > 0
    assert "libreoffice-help-de_1_all.deb" in capsys.readouterr().out


@needs_dpkg
def test_a_package_without_pages_is_refused(tmp_path):
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for folder, language in (("en-US", "en-us"), ("fr", "de")):
        make_package(downloads, folder, {"a.html": page([])})
        name = f"libreoffice-help-{folder.lower()}_1_all.deb"
        (downloads / name).rename(downloads / f"libreoffice-help-{language}_1_all.deb")
    with pytest.raises(SystemExit, match="libreoffice-help-de has no pages in usr/share"):
        prepare.main(["help", "--workdir", str(tmp_path)])


def test_without_apt_the_programs_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="apt-get, dpkg-deb not found: .* Debian"):
        prepare.main(["help", "--workdir", str(tmp_path)])
