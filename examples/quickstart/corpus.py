"""Builds the quickstart's data out of what Python packages carry: no download.

* ``OUT/translation/{train,valid,test}.{en,de}``: parallel phrases from the Unicode CLDR, the
  database that software formats dates, units and names with, as packaged by Babel.
* ``OUT/lm/{train,valid,test}.txt``: English prose, one sentence a line, from the documentation of
  the Python interpreter that runs this.

    python examples/quickstart/corpus.py OUT --pairs 20000 --seed 1
"""

import argparse
import ast
import datetime
import itertools
import random
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics

from babel import Locale, dates, numbers, units
from babel.lists import format_list
from babel.localedata import locale_identifiers

LOCALES = Locale("en"), Locale("de")
Pair = tuple[str, str]  # the same meaning in English and in German


# --- the vocabulary -----------------------------------------------------------------------------


def shared(table: str) -> list[str]:
    """The codes of a CLDR table that both languages have a name for."""
    english, german = (getattr(locale, table) for locale in LOCALES)
    return sorted(set(english) & set(german))


def in_use(part: str, table: str) -> list[str]:
    """The languages, scripts or territories that CLDR has a locale for."""
    return sorted({getattr(variety, part) for variety in VARIETIES} & set(shared(table)))


VARIETIES = [Locale.parse(name) for name in sorted(locale_identifiers()) if name != "root"]
LANGUAGES = in_use("language", "languages")
SCRIPTS = in_use("script", "scripts")
TERRITORIES = in_use("territory", "territories")
LEGAL_TENDER = {code for place in TERRITORIES for code in numbers.get_territory_currencies(place)}
CURRENCIES = sorted(LEGAL_TENDER & set(shared("currencies")))
UNITS = [
    unit
    for unit in shared("unit_display_names")
    if all(units.get_unit_name(unit, "long", locale) for locale in LOCALES)
]
RATES = [
    ("kilometer", "hour"), ("meter", "second"), ("mile", "hour"), ("liter", "minute"),
    ("kilogram", "day"), ("tonne", "year"), ("gram", "liter"), ("megabyte", "second"),
    ("kilowatt-hour", "month"), ("pound", "week"), ("gallon", "hour"), ("kilocalorie", "day"),
]  # fmt: skip


def both(say: Callable[..., str], *args, **more) -> Pair:
    """The same thing in both languages, CLDR's no-break and thin spaces made plain ones."""
    english, german = (" ".join(say(*args, locale=locale, **more).split()) for locale in LOCALES)
    return english, german


def random_day(rng: random.Random) -> datetime.date:
    """A day of the years 1900 to 2099."""
    return datetime.date(1900, 1, 1) + datetime.timedelta(days=rng.randrange(73_049))


def random_number(rng: random.Random) -> float:
    """A small number, a large one, or one with a decimal."""
    return rng.choice(
        [rng.randrange(1, 100), rng.randrange(100, 100_000), rng.randrange(1, 10_000) / 10]
    )


# --- one function per kind of phrase ------------------------------------------------------------


def date(rng: random.Random) -> Pair:
    """Wednesday, March 3, 2021 | Mittwoch, 3. März 2021"""
    return both(dates.format_date, random_day(rng), rng.choice(["full", "long", "medium"]))


def calendar(rng: random.Random) -> Pair:
    """week 10 of 2021 | Woche 10 des Jahres 2021"""
    day = datetime.datetime.combine(random_day(rng), datetime.time())
    skeleton = rng.choice(["yw", "yQQQQ", "yMMMM", "MMMMW", "GyMMMd", "yMMMEd"])
    return both(dates.format_skeleton, skeleton, day)


def moment(rng: random.Random) -> Pair:
    """Mar 3, 2021, 3:45:12 PM | 03.03.2021, 15:45:12"""
    time = datetime.time(rng.randrange(24), rng.randrange(60), rng.randrange(60))
    moment = datetime.datetime.combine(random_day(rng), time)
    return both(dates.format_datetime, moment, rng.choice(["medium", "short"]))


def date_interval(rng: random.Random) -> Pair:
    """Mar 3 – May 17, 2021 | 3. März – 17. Mai 2021"""
    start = random_day(rng)
    days = rng.choice([rng.randrange(1, 28), rng.randrange(28, 900)])
    skeleton = rng.choice(["MMMd", "yMMMd", "yMMMEd", "yMMMM"])
    return both(dates.format_interval, start, start + datetime.timedelta(days), skeleton)


def time_interval(rng: random.Random) -> Pair:
    """3:45 – 6:45 PM | 15:45–18:45 Uhr"""
    start, end = sorted(rng.sample(range(24 * 60), 2))
    times = [datetime.datetime(2000, 1, 1, *divmod(minute, 60)) for minute in (start, end)]
    clock = {"en": "hm", "de": "Hm"}
    return both(lambda locale: dates.format_interval(*times, clock[locale.language], locale=locale))


def relative_time(rng: random.Random) -> Pair:
    """in 3 days | in 3 Tagen"""
    unit = rng.choice(["seconds", "minutes", "hours", "days", "weeks"])
    delta = datetime.timedelta(**{unit: rng.choice([-1, 1]) * rng.randrange(1, 5_000)})
    unit, directed = unit.removesuffix("s"), rng.random() < 0.8
    return both(dates.format_timedelta, delta, unit, threshold=10_000, add_direction=directed)


def quantity(rng: random.Random) -> Pair:
    """12,345.5 kilometers | 12.345,5 Kilometer"""
    return both(units.format_unit, random_number(rng), rng.choice(UNITS), "long")


def rate(rng: random.Random) -> Pair:
    """150 kilometers per hour | 150 Kilometer pro Stunde"""
    number, (unit, per) = random_number(rng), rng.choice(RATES)
    count = rng.choice([1, rng.randrange(2, 100)])
    return both(units.format_compound_unit, number, unit, count, per)


def money(rng: random.Random) -> Pair:
    """1,234.50 US dollars | 1.234,50 US-Dollar"""
    amount, currency = random_number(rng), rng.choice(CURRENCIES)
    return both(numbers.format_currency, amount, currency, format_type="name")


def large_number(rng: random.Random) -> Pair:
    """12.3 million | 12,3 Millionen"""
    number = rng.randrange(1, 10_000) * 10 ** rng.randrange(3, 12)
    return both(numbers.format_compact_decimal, number, format_type="long", fraction_digits=1)


def percentages(rng: random.Random) -> Pair:
    """12.5%, 40%, or 3.1% | 12,5 %, 40 % oder 3,1 %"""
    shares = [rng.randrange(1, 1000) / 1000 for _ in range(rng.randrange(1, 4))]

    def say(locale: Locale) -> str:
        texts = [
            numbers.format_percent(x, locale=locale, decimal_quantization=False) for x in shares
        ]
        return format_list(texts, "or", locale)

    return both(say)


def names(table: str, codes: list[str], rng: random.Random) -> Pair:
    """Austria, Chad, and Peru | Österreich, Tschad und Peru"""
    chosen, style = rng.sample(codes, rng.randrange(2, 5)), rng.choice(["standard", "or"])
    return both(
        lambda locale: format_list([getattr(locale, table)[code] for code in chosen], style, locale)
    )


def varieties(rng: random.Random) -> Pair:
    """Serbian (Cyrillic, Serbia) and German (Austria) | Serbisch (Kyrillisch, Serbien) und …"""
    chosen, style = rng.sample(VARIETIES, 2), rng.choice(["standard", "or"])
    return both(
        lambda locale: format_list([x.get_display_name(locale) for x in chosen], style, locale)
    )


territories = partial(names, "territories", TERRITORIES)
languages = partial(names, "languages", LANGUAGES)
scripts = partial(names, "scripts", SCRIPTS)
KINDS = [
    date, calendar, moment, date_interval, time_interval, relative_time, quantity, rate, money,
    large_number, percentages, territories, languages, scripts, varieties,
]  # fmt: skip


def single_names() -> Iterator[Pair]:
    """Every name by itself, as a dictionary has it."""

    def of(locale: Locale) -> Iterator[str]:
        yield from (locale.territories[code] for code in TERRITORIES)
        yield from (locale.languages[code] for code in LANGUAGES)
        yield from (locale.scripts[code] for code in SCRIPTS)
        yield from (locale.currencies[code] for code in CURRENCIES)
        yield from (units.get_unit_name(unit, "long", locale) for unit in UNITS)
        yield from (name for _, name in sorted(locale.months["format"]["wide"].items()))
        yield from (name for _, name in sorted(locale.days["format"]["wide"].items()))

    return zip(*map(of, LOCALES))


# --- the parallel text --------------------------------------------------------------------------


class Distinct(set):
    """Lets a pair through if neither of its sides has come before."""

    def __call__(self, pair: Pair) -> bool:
        sides = set(enumerate(pair))
        new = self.isdisjoint(sides)
        if new:
            self.update(sides)
        return new


def draw(
    kind: Callable[[random.Random], Pair], count: int, distinct: Distinct, rng: random.Random
) -> list[Pair]:
    """`count` new phrases of one kind."""
    draws = (kind(rng) for _ in range(20 * count))
    phrases = list(itertools.islice(filter(distinct, draws), count))
    if len(phrases) < count:
        raise SystemExit(f"CLDR has fewer than {count} phrases of a kind: ask for fewer --pairs")
    return phrases


def parallel_text(pairs: int, seed: int) -> dict[str, list[Pair]]:
    """The splits: `pairs` phrases to train on, a 40th of that to validate, a 20th to test.

    Every kind of phrase has an equal share of every split. Single names are all in train, where
    they make up a tenth at most: nobody could translate a name met for the first time.
    """
    rng, distinct = random.Random(seed), Distinct()
    names = list(filter(distinct, single_names()))
    names = rng.sample(names, min(len(names), pairs // 10))
    sizes = {"valid": pairs // 40, "test": pairs // 20, "train": pairs - len(names)}
    splits = {split: [] for split in sizes}
    for split, size in sizes.items():
        for i, kind in enumerate(KINDS):
            share = size // len(KINDS) + (i < size % len(KINDS))
            splits[split] += draw(kind, share, distinct, rng)
    splits["train"] += names
    for phrases in splits.values():
        rng.shuffle(phrases)
    return splits


# --- the English prose --------------------------------------------------------------------------


MODULES = """
    _pydecimal _pyio abc argparse ast asyncio base64 bdb bz2 calendar cmd code codecs
    collections concurrent configparser contextlib copy csv ctypes curses dataclasses datetime
    dbm difflib dis doctest email enum filecmp fileinput fnmatch fractions ftplib
    functools getopt getpass gettext glob graphlib gzip hashlib heapq hmac html http imaplib
    importlib inspect io ipaddress json keyword linecache locale logging lzma mailbox mimetypes
    modulefinder multiprocessing netrc numbers operator optparse os pathlib pdb pickle
    pickletools pkgutil platform plistlib poplib pprint profile pstats py_compile pyclbr pydoc
    queue quopri random re rlcompleter runpy sched secrets selectors shelve shlex shutil site
    smtplib socket socketserver sqlite3 ssl stat statistics string stringprep subprocess
    symtable sysconfig tabnanny tarfile tempfile textwrap threading timeit token tokenize trace
    traceback tracemalloc turtle types typing unittest urllib uuid venv warnings wave weakref
    webbrowser wsgiref xml xmlrpc zipapp zipfile zipimport
"""


def documents() -> Iterator[str]:
    """The text of the language reference by topic, then of the library by module."""
    yield from (text for _, text in sorted(topics.items()))
    library = Path(sysconfig.get_path("stdlib"))
    for module in MODULES.split():
        files = sorted((library / module).rglob("*.py")) or [library / f"{module}.py"]
        yield "\n\n".join(text for file in files for text in docstrings(file))


def docstrings(file: Path) -> list[str]:
    """The docstrings in a source file, which is parsed, not imported."""
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    nodes = (node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, kinds))
    return [text for text in map(ast.get_docstring, nodes) if text]


def prose(paragraph: str) -> list[str]:
    """A paragraph's sentences; none if it is a table, a heading, code or a doctest."""
    text = " ".join(paragraph.split())
    plain = sum(character.isalpha() or character == " " for character in text)
    if ">>>" in text or len(text.split()) < 5 or plain < 0.85 * len(text):
        return []
    return re.split(r"(?<=[.!?])\s+(?=[A-Z\"'(*])", text)


def running_text(seed: int) -> dict[str, list[str]]:
    """The splits, by document: a twentieth of the words each for valid and test, the rest train.

    A paragraph that the documentation repeats is kept once.
    """
    seen, texts = set(), []
    for text in documents():
        paragraphs = [p for p in re.split(r"\n\s*\n", text) if p not in seen]
        seen.update(paragraphs)
        texts.append([line for paragraph in paragraphs for line in prose(paragraph)])
    random.Random(seed).shuffle(texts)
    share = sum(map(count_words, texts)) // 20
    splits = {"valid": [], "test": [], "train": []}
    for lines in texts:
        split = next((s for s in ("valid", "test") if count_words(splits[s]) < share), "train")
        splits[split] += lines
    return splits


def count_words(lines: list[str]) -> int:
    return sum(len(line.split()) for line in lines)


# --- the files ----------------------------------------------------------------------------------


def write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--pairs", type=int, default=20_000, help="phrases to train on")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    for split, phrases in parallel_text(args.pairs, args.seed).items():
        for language, lines in zip(("en", "de"), zip(*phrases)):
            write(args.out / f"translation/{split}.{language}", lines)
        print(f"translation {split}: {len(phrases):,} pairs")
    for split, lines in running_text(args.seed).items():
        write(args.out / f"lm/{split}.txt", lines)
        print(f"lm {split}: {len(lines):,} sentences, {count_words(lines):,} words")


if __name__ == "__main__":
    main()
