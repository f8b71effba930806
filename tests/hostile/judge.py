"""Makes hostile files, loads them in every way, and says what went wrong.

    python tests/hostile/judge.py [N]

is `make hostile`: all files in all entries, and in fairseq's whole commands. With N,
one attempt in so many.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/hostile")]

import corpus  # noqa: E402
from fairseq import options  # noqa: E402
from fairseq_cli import preprocess  # noqa: E402

# These take nothing but weights from a file, whatever options it has.
WEIGHTS_ALONE = {"average", "restore", "finetune", "fairseq-train --restore-file"}
WEIGHTS_ALONE |= {"fairseq-train --finetune-from-model"}
TASK_GIVEN = {"load_for_task", "fairseq-generate", "fairseq-interactive"}
OURS = {"from_pretrained", "export", "average"}


def wrong(folder, kind, file, entry, error, words):
    """What is wrong with how an attempt ended; None if nothing is."""
    path, file = f"{kind}/{file}", file.removeprefix(corpus.OLDER)
    if error in ("KeyboardInterrupt", "MemoryError"):
        return f"it takes forever, or all memory ({error})"
    if not error:
        only_options = file in corpus.options(folder, "")
        if file in corpus.MAY_LOAD or (only_options and entry in WEIGHTS_ALONE):
            return None
        if file == "language upwards" and (kind == "language_model" or entry in TASK_GIVEN):
            return None  # nothing asks for it
        if entry == "only_load" and file not in corpus.REFUSED_BY_TORCH and "call" not in file:
            return None
        return "it loaded"
    if file == "honest" and entry != "state":
        return f"it is refused: {words}"
    if file in corpus.MAY_LOAD and entry not in OURS:
        return None  # as training with NaN ends
    if entry in OURS and path[:60] not in words and "checkpoint1.pt" not in words:
        return f"the error does not say where: {error} {words}"
    return None if len(words) > 3 or error == "EOFError" else f"the error says nothing: {error}"


def contents(folder):
    """What must be as before, whatever was loaded: all files, and that there are no marks."""
    paths = sorted(path for path in folder.rglob("*") if "bin" not in path.parts)
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in paths
    }


def attempt(folder, *words):
    """All attempts that ``entries.py`` makes with these options, with what is wrong with each."""
    before = contents(folder)
    process = subprocess.run(
        [sys.executable, str(ROOT / "tests/hostile/entries.py"), str(folder), *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    ends = [json.loads(line) for line in process.stdout.splitlines()]
    found = [(*end[:3], wrong(folder, *end)) for end in ends]
    problems = [each for each in found if each[3] is not None]
    if process.returncode:
        problems.append(("the process", ends[-1] if ends else "", "", process.returncode))
    after = contents(folder)
    if before != after:
        changed = sorted(name for name, _ in before.items() ^ after.items())
        problems.append(("files", "are not as before", "", changed))
    return found, problems


def binarise(folder):
    """A few sentences as both kinds of data."""
    text = folder / "data/text"
    for side in ("src", "tgt"):
        Path(f"{text}.{side}").write_text("w1 w2 w3\n" * 4)
    text.write_text("w1 w2 w3 w4 w5\n" * 8)
    prefixes = [f"--{split}pref" for split in ("train", "valid", "test")]
    words = [word for prefix in prefixes for word in (prefix, str(text))]
    words += ["--destdir", str(folder / "bin")]
    data = folder / "data"
    sides = ["-s", "src", "-t", "tgt", "--tgtdict", str(data / "dict.tgt.txt")]
    for more in (
        [*sides, "--srcdict", str(data / "dict.src.txt")],
        ["--only-source", "--srcdict", str(data / "dict.txt")],
    ):
        preprocess.main(options.get_preprocessing_parser().parse_args([*words, *more]))


def main():
    every = ("--every", sys.argv[1] if len(sys.argv) > 1 else "1")
    start = time.time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus.write(folder, older=True)
        binarise(folder)
        found, problems = zip(*(attempt(folder, *words, *every) for words in ((), ("--commands",))))
    for problem in sum(problems, []):
        print("WRONG:", *problem)
    files = len({each[:2] for each in found[0]})
    print(
        f"{files} files; {len(found[0])} attempts to load them, and {len(found[1])} with whole "
        f"commands; {sum(map(len, problems))} went wrong ({time.time() - start:.0f} s)"
    )
    sys.exit(any(problems))


if __name__ == "__main__":
    main()
