"""Small archives in the layout of the published data sets, and the server that has them."""

import gzip
import io
import shutil
import subprocess
import tarfile
import zipfile

import pytest

from examples.quickstart.corpus import parallel_text


def tgz(members):
    """The bytes of a .tgz of these texts or bytes by their paths."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for path, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zipped(members):
    """The bytes of a .zip of these texts or bytes by their paths."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in members.items():
            archive.writestr(path, data)
    return out.getvalue()


needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs Debian's dpkg-deb")


def deb(folder, name, members):
    """Writes a Debian package of these texts by their paths: FOLDER/NAME_1_all.deb."""
    root = folder / name
    for path, text in members.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: x\n"
    )
    command = ["dpkg-deb", "--build", str(root), str(folder / f"{name}_1_all.deb")]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(root)


def sentences(count, seed=1):
    """Parallel English and German."""
    phrases = parallel_text(count, seed)["train"]
    return [phrase.en for phrase in phrases], [phrase.de for phrase in phrases]


def lines(texts):
    return "".join(f"{text}\n" for text in texts)


def sgm(texts, kind, language, name):
    """A test set as WMT has it."""
    segments = lines(f'<seg id="{i}">{text}</seg>' for i, text in enumerate(texts, start=1))
    return (
        f'<{kind} setid="{name}" srclang="any" trglang="{language}">\n'
        f'<doc sysid="ref" docid="a.1" genre="news" origlang="de">\n<p>\n{segments}</p>\n</doc>\n'
        f"</{kind}>\n"
    )


def wmt16(train, valid, test):
    """WMT'16's files by address; `train` are three pairs of texts, `valid` and `test` one each."""
    europarl, crawl, news = train
    other = {f"commoncrawl.cs-en.{x}": "ano\n" for x in ("cs", "en")}
    news_path = "training-parallel-nc-v11/news-commentary-v11.de-en"
    return {
        "europarl/v7/de-en.tgz": tgz(
            {f"europarl-v7.de-en.{x}": lines(y) for x, y in zip(("en", "de"), europarl)}
        ),
        "wmt13/training-parallel-commoncrawl.tgz": tgz(
            {**other, **{f"commoncrawl.de-en.{x}": lines(y) for x, y in zip(("en", "de"), crawl)}}
        ),
        "wmt16/training-parallel-nc-v11.tgz": tgz(
            {f"{news_path}.{x}": lines(y) for x, y in zip(("en", "de"), news)}
        ),
        "wmt16/dev.tgz": tgz(
            {
                "dev/newstest2012.en": "old\n",
                "dev/newstest2013.en": lines(valid[0]),
                "dev/newstest2013.de": lines(valid[1]),
                "dev/newstest2014-deen-src.de.sgm": sgm(test[1], "srcset", "de", "newstest2014"),
                "dev/newstest2014-deen-ref.en.sgm": sgm(test[0], "refset", "en", "newstest2014"),
            }
        ),
    }


def iwslt14(train, tests):
    """IWSLT'14's archive: `train` as it stands in train.tags, five tests by their names."""
    members = {f"de-en/train.tags.de-en.{x}": lines(y) for x, y in zip(("en", "de"), train)}
    for name, pair in tests.items():
        for language, texts in zip(("en", "de"), pair):
            segments = lines(f'<seg id="{i}"> {text} </seg>' for i, text in enumerate(texts, 1))
            members[f"de-en/IWSLT14.{name}.de-en.{language}.xml"] = (
                f'<?xml version="1.0" encoding="UTF-8"?>\n<mteval>\n<srcset setid="{name}">\n'
                f'<doc docid="535">\n<url>http://www.ted.com</url>\n<title>Title</title>\n'
                f"{segments}</doc>\n</srcset>\n</mteval>\n"
            )
    return tgz(members)


def multi30k(train, valid, test):
    """Multi30k's six files by their names."""
    names = {"train": train, "val": valid, "test_2016_flickr": test}
    return {
        f"{name}.{language}.gz": gzip.compress(lines(texts).encode())
        for name, pair in names.items()
        for language, texts in zip(("en", "de"), pair)
    }
