"""Preparing sequences with classes: the published archives, generated data, and users' own."""

import re
import wave

import archives
import numpy as np
import pytest
import torch
from classification import make_data
from commands import run_warm
from PIL import Image
from server import running_server

from examples.classification import prepare, published, speech
from examples.steps import SPLITS

TINY = (
    "--encoder-layers 1 --encoder-embed-dim 8 --encoder-hidden-dim 16 --z-dim 4 --n-dim 2 "
    "--chunk-size 64 --classifier-out-dim 16 --criterion lra_cross_entropy --sentence-avg "
    "--optimizer adam --lr 1e-3 --batch-size 4 --max-update 1 --log-format json --log-interval 1 "
    "--num-workers 0 --no-save"
)


@pytest.fixture(scope="module")
def server():
    with running_server() as server:
        yield server


def make(*words):
    prepare.main([str(word) for word in words])


def refused(message, *words):
    """The preparation ends with a message that matches."""
    with pytest.raises(SystemExit, match=message):
        make(*words)


def lines(path):
    return path.read_text().splitlines()


def train(data, task, options=""):
    """Trains for one update and validates once."""
    output = run_warm("train", data, f"--task {task}", TINY, options)
    assert '"train_num_updates": "1"' in output and '"valid_accuracy"' in output


# --- published archives -------------------------------------------------------------------------


def zip_of(folder, top):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return archives.zipped(
        {f"{top}/{path.relative_to(folder)}": path.read_bytes() for path in files}
    )


def test_the_published_arena_is_unpacked_where_the_commands_look(server, tmp_path):
    kinds = {"listops": "text", "imdb-4000": "text", "aan": "pair", "cifar10": "image",
             "pathfinder": "image", "path-x": "image"}  # fmt: skip
    made, work = tmp_path / "made", tmp_path / "lra"
    for task, kind in kinds.items():
        make_data(kind, made / task, 2)
    (made / "listops" / "src-bin" / "preprocess.log").write_text("not needed")
    server.files = {"MEGA_LRA": zip_of(made, "lra")}
    make("lra", "--workdir", work)
    for task in kinds:
        written = [path for path in (work / task).rglob("*") if path.is_file()]
        assert {str(p.relative_to(work / task)) for p in written} == published.NEEDED[task]
        for path in written:
            assert path.read_bytes() == (made / path.relative_to(work)).read_bytes()


def test_published_speech_commands(server, tmp_path):
    made, work = make_data("speech", tmp_path / "made", 10), tmp_path / "sc"
    whole = zip_of(made, "speech_commands")
    server.files = {"MEGA_SPEECH_COMMANDS": whole[: len(whole) // 2]}
    refused("speech_commands.zip is damaged.*delete it", "speech-commands", "--workdir", work)
    assert not (work / "processed_data").exists()
    (work / "downloads/speech_commands.zip").unlink()
    server.files = {"MEGA_SPEECH_COMMANDS": whole}
    make("speech-commands", "--workdir", work)
    assert torch.load(work / "processed_data/raw/train_X.pt").shape == (60, 1, 50)


def test_movie_reviews_from_their_archive(server, tmp_path):
    """Reviews become bytes; the test set validates. A folder without a class is refused."""
    members = {
        f"aclImdb/{split}/{kind}/{i}_{i % 10}.txt": f"{kind} {split}\x85 no {i}, élan\n"
        for split in ("train", "test")
        for kind in ("pos", "neg")
        for i in range(6)
    }
    more = {"aclImdb/train/unsup/0_0.txt": "no label", "aclImdb/README": "read"}
    server.files = {"LRA_IMDB": archives.tgz(members | more)}
    make("text", "--longest", 20, "--workers", 1, "--workdir", tmp_path / "data")
    text = tmp_path / "data/text"
    assert len(list(text.iterdir())) == 6
    assert lines(text / "train.label") == ["0"] * 6 + ["1"] * 6
    first = lines(text / "train.src")[0]
    assert bytes(map(int, first.split())) == "neg train\x85 no 0, élan".encode()[:20]
    assert lines(text / "valid.src") == lines(text / "test.src")
    for path, content in members.items():
        if "test/pos" not in path:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
    words = ["text", "--from", tmp_path / "aclImdb", "--workdir", tmp_path / "own"]
    refused("aclImdb/test has no folder pos", *words)
    (tmp_path / "aclImdb/test/pos").mkdir()
    refused(r"aclImdb/test/pos has no samples \(.txt\)", *words)


def test_cifar10_from_its_archive(server, tmp_path):
    """Images are grey as Pillow computes it; files in another layout are refused."""
    draw = np.random.default_rng(1)
    batches = draw.integers(0, 256, (6, 12, 3073), dtype=np.uint8)
    batches[:, :, 0] = np.arange(12) % 10
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    members = {f"cifar-10-batches-bin/{n}": b.tobytes() for n, b in zip(names, batches)}
    server.files = {"LRA_CIFAR10": archives.tgz(members)}
    make("image", "--held-out", 10, "--workdir", tmp_path / "data")
    rows = {split: np.loadtxt(tmp_path / f"data/input/{split}.src", dtype=int) for split in SPLITS}
    assert [rows[split].shape for split in SPLITS] == [(50, 1024), (10, 1024), (12, 1024)]
    for row, record in zip(rows["test"], batches[5]):
        colours = Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0))
        assert (np.asarray(colours.convert("L")).reshape(-1) == row).all()
    assert lines(tmp_path / "data/label/test.label") == [str(i % 10) for i in range(12)]
    words = ["image", "--from", tmp_path, "--workdir", tmp_path / "own"]
    refused("data_batch_1.bin is not there: --from", *words)
    (tmp_path / "data_batch_1.bin").write_bytes(b"1" * 100)
    refused("data_batch_1.bin is not a batch of CIFAR-10's binary version", *words)


# --- ListOps ------------------------------------------------------------------------------------


def value_of(text):
    """The value of a sequence, whose innermost brackets are rewritten until one digit is left."""
    inner = re.compile(r"\[(MAX|MIN|MED|SM)((?: \d)+) \]")

    def reduce(found):
        values = np.array(found[2].split(), dtype=int)
        operation = {"MAX": np.max, "MIN": np.min, "MED": np.median, "SM": np.sum}[found[1]]
        return str(int(operation(values)) % 10)

    while " " in text:
        text, count = inner.subn(reduce, text)
        assert count
    return int(text)


def test_generated_listops_are_right_and_within_their_limits(tmp_path):
    words = ["listops", "--max-depth", 4, "--max-arguments", 5, "--min-length", 10, "--seed", 3]
    words += ["--sizes", 300, 9, 9, "--workers", 1, "--workdir"]
    make(*words, tmp_path / "data", "--max-length", 60)
    folder = tmp_path / "data/text"
    texts = [text for split in SPLITS for text in lines(folder / f"{split}.src")]
    values = [int(value) for split in SPLITS for value in lines(folder / f"{split}.label")]
    assert list(map(value_of, texts)) == values and set(values) == set(range(10))
    assert all(10 <= len(text.split()) <= 60 for text in texts)
    assert len(set(texts)) == 318
    assert len(lines(tmp_path / "data/src-bin/dict.txt")) + 4 + 1 == 25  # the published vocabulary
    make(*words, tmp_path / "data", "--max-length", 60)  # nothing is left to do
    refused("begun with max_length 60, not 80", *words, tmp_path / "data", "--max-length", 80)
    make(*words, tmp_path / "again", "--max-length", 60)
    assert lines(tmp_path / "again/text/train.src") == texts[:300]
    train(tmp_path / "data", "lra-text -a mega_listops", "--max-positions 60")


@pytest.mark.parametrize(
    "options, message",
    [
        ("--max-arguments 1", "--max-arguments is 1, but must be from 2"),
        ("--operator-rate 2", "--operator-rate is 2.0, but must be from 0 to 1"),
        ("--min-length 90 --max-length 60", "--min-length is 90, but must be from 4 to 60"),
        ("--max-depth 1 --min-length 500", "hardly another one of depth 1.*raise --max-depth"),
        ("--sizes 3 -1 2", "2"),
    ],
)
def test_impossible_listops(options, message, tmp_path):
    refused(message, "listops", *options.split(), "--workdir", tmp_path)


# --- users' own ---------------------------------------------------------------------------------


def test_tables(tmp_path):
    rows = [f'"{("bad", "good")[i % 2]}, number {i}",{("down", "up")[i % 2]}\n' for i in range(20)]
    path = tmp_path / "own.csv"
    path.write_text("review,mark\n" + "".join(rows))
    words = ["table", "--from", path, "--workers", 1, "--workdir"]
    columns = ["--text-column", "review", "--label-column", "mark"]
    make(*words, tmp_path / "data", *columns, "--symbols", "words")
    for split, count in (("train", 8), ("valid", 1), ("test", 1)):
        texts = lines(tmp_path / f"data/text/{split}.src")
        labels = lines(tmp_path / f"data/text/{split}.label")
        assert sorted(labels) == ["down"] * count + ["up"] * count
        assert all(t.startswith({"up": "good,", "down": "bad,"}[k]) for t, k in zip(texts, labels))
    refused("own.csv has no column text, label, but review, mark", *words, tmp_path / "a")
    half = [tmp_path / "half", *columns, "--held-out", 0.5]
    refused("--held-out is 0.5, but must be above 0 and below 0.5", *words, *half)
    words = [*words, tmp_path / "b", *columns]
    for text, message in [
        ("one,two,three\n", "own.csv, line 2 must have 2 columns"),
        ("a,up\nb,up\nc,up\nd,down\n", "class 0 has 1 samples.*needs 3"),
        ("a,\n", "line 2 has the text 'a' and the label ''"),
        ("\udcff,up\n", "own.csv cannot be read as a table"),
    ]:
        path.write_text(f"review,mark\n{text}", errors="surrogateescape")
        refused(message, *words)


def test_pictures(tmp_path):
    folder = tmp_path / "own"
    for level, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (6, 5), (100 * level, i, 0)).save(folder / name / f"{i}.png")
    words = ["pictures", "--from", folder, "--workdir"]
    make(*words, tmp_path / "data")
    assert np.loadtxt(tmp_path / "data/input/train.src").shape == (16, 30)
    assert lines(tmp_path / "data/input/classes.txt") == ["cat", "dog"]
    train(tmp_path / "data", "lra-image -a mega_image", "--sentence-class-num 2")
    Image.new("L", (9, 9)).save(folder / "cat/x.png")
    refused("x.png has 9 x 9 pixels, but .* 6 x 5: .*--size WIDTH HEIGHT", *words, tmp_path / "a")
    make(*words, tmp_path / "scaled", "--size", 4, 3)
    assert np.loadtxt(tmp_path / "scaled/input/test.src").shape == (2, 12)
    (folder / "cat/x.png").write_bytes((folder / "dog/1.png").read_bytes()[:50])
    refused("cat/x.png is not a picture that can be read", *words, tmp_path / "b")
    missing = ["--classes", "cat", "bird"]
    refused("has no folder bird: look at --classes", *words, tmp_path / "c", *missing)


def write_wav(path, samples, rate=16000, width=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, width, rate, 0, "NONE", ""))
        file.writeframes(np.asarray(samples, dtype={1: "u1", 2: "<i2", 4: "<i4"}[width]).tobytes())


def word_folders(folder, words):
    draw = np.random.default_rng(1)
    for word in words:
        for i in range(10):
            write_wav(folder / word / f"{i}.wav", draw.integers(-9000, 9000, 40))
    return folder


def test_audio_is_split_and_standardised(tmp_path):
    """Ten words in the published order; a clip of another length is left out or padded."""
    folder = word_folders(tmp_path / "wavs", speech.WORDS)
    write_wav(folder / "yes/short.wav", np.zeros(39))
    (folder / "_background_noise_").mkdir()
    words = ["audio", "--from", folder, "--samples", 40, "--workdir"]

    def tensors(name, stem):
        return (torch.load(tmp_path / f"{name}/processed_data/raw/{stem}_{x}.pt") for x in "Xy")

    make(*words, tmp_path / "data")
    for stem, count in (("test", 10), ("val", 10), ("train", 80)):
        clips, y = tensors("data", stem)
        assert clips.shape == (count, 1, 40) and clips.dtype == torch.float32
        assert torch.bincount(y).tolist() == [count // 10] * 10
    assert lines(tmp_path / "data/processed_data/classes.txt") == list(speech.WORDS)
    torch.testing.assert_close(clips.mean(0), torch.zeros(1, 40), atol=1e-5, rtol=0)
    torch.testing.assert_close(clips.std(0, correction=0), torch.ones(1, 40), atol=1e-3, rtol=0)
    make(*words, tmp_path / "all", "--standardise", "all", "--fit")
    clips, y = tensors("all", "train")
    assert len(y) == 81 and abs(float(clips.mean())) < 1e-5 and abs(float(clips.std()) - 1) < 1e-3


def test_audio_that_cannot_be_prepared(tmp_path):
    folder = word_folders(tmp_path / "wavs", ["one", "two"])
    words = ["audio", "--from", folder, "--workdir", tmp_path / "data", "--samples", 40]
    clip = folder / "one/3.wav"
    whole = clip.read_bytes()
    for content in (whole[:-20], whole[:20], b"no sound"):
        clip.write_bytes(content)
        refused("one/3.wav is not a wav file that can be read", *words)
    write_wav(clip, np.zeros(40), rate=8000)
    refused("16000 samples a second, .*one/3.wav has 8000", *words)
    clip.unlink()
    words[4] = tmp_path / "b"
    refused("has no clip of 50 samples among 9: give another --samples", *words[:-1], 50)
    (folder / "three").mkdir()
    words[4] = tmp_path / "c"
    refused(r"three has no samples \(.wav\)", *words)


def test_samples_of_all_widths(tmp_path):
    values = np.linspace(-0.9, 0.9, 50)
    for width, scale, offset in ((1, 127, 128), (2, 32767, 0), (4, 2**31 - 1, 0)):
        write_wav(tmp_path / "a.wav", values * scale + offset, rate=8000, width=width)
        samples, rate = speech.read_wav(tmp_path / "a.wav")
        assert rate == 8000 and np.abs(samples - values).max() < 0.02
