"""Small archives in the layout of the published data sets."""

import gzip
import io
import shutil
import subprocess
import tarfile
import zipfile

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
    return tuple(map(list, zip(*parallel_text(count, seed)["train"])))


def lines(texts):
    return "".join(f"{text}\n" for text in texts)


def segments(texts):
    """A test set as WMT and IWSLT have it."""
    rows = (f'<seg id="{i}"> {text} </seg>' for i, text in enumerate(texts, start=1))
    return (
        f'<srcset setid="x">\n<doc docid="a.1">\n<title>T</title>\n{lines(rows)}</doc></srcset>\n'
    )


def pair_of(name, pair):
    return {f"{name}.{language}": lines(text) for language, text in zip(("en", "de"), pair)}


def wmt16(train, valid, test):
    """WMT'16's files; `train` are three pairs of texts, `valid` and `test` one each."""
    europarl, crawl, news = train
    other = {f"commoncrawl.cs-en.{x}": "ano\n" for x in ("cs", "en")}
    news_path = "training-parallel-nc-v11/news-commentary-v11.de-en"
    dev = pair_of("dev/newstest2012", (["old"], ["alt"])) | pair_of("dev/newstest2013", valid)
    dev["dev/newstest2014-deen-ref.en.sgm"] = segments(test[0])
    dev["dev/newstest2014-deen-src.de.sgm"] = segments(test[1])
    return {
        "WMT16_EUROPARL": tgz(pair_of("europarl-v7.de-en", europarl)),
        "WMT16_COMMONCRAWL": tgz(other | pair_of("commoncrawl.de-en", crawl)),
        "WMT16_NEWS_COMMENTARY": tgz(pair_of(news_path, news)),
        "WMT16_DEV": tgz(dev),
    }


def iwslt14(train, tests):
    """IWSLT'14's archive: `train` as it stands in train.tags, five tests by their names."""
    members = pair_of("de-en/train.tags.de-en", train)
    for name, pair in tests.items():
        for language, texts in zip(("en", "de"), pair):
            members[f"de-en/IWSLT14.{name}.de-en.{language}.xml"] = segments(texts)
    return {"IWSLT14_DE_EN": tgz(members)}


def multi30k(**splits):
    """Multi30k's six files, of pairs of texts by the names of their splits."""
    return {
        f"MULTI30K_{split.upper()}_{language.upper()}": gzip.compress(lines(text).encode())
        for split, pair in splits.items()
        for language, text in zip(("en", "de"), pair)
    }
