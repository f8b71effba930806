"""Preparing clips of audio, and the published archives; test_long_demo.py trains on clips."""

import io
import wave

import archives
import numpy as np
import pytest
import torch
from classification import make_data
from preparing import SPLITS, lines, make, refused, serving_all
from scipy.io import wavfile

from examples.classification import published, speech
from examples.classification.layouts import stratified
from examples.steps import PreparationError


@pytest.fixture(scope="module")
def server():
    with serving_all() as server:
        yield server


# --- published archives -----------------------------------------------------------------------


def zip_of(folder, top):
    return archives.zipped(
        {f"{top}/{path.relative_to(folder)}": path.read_bytes()
         for path in sorted(folder.rglob("*")) if path.is_file()}
    )  # fmt: skip


def test_the_published_arena_is_unpacked_where_the_commands_look(server, tmp_path):
    """After a break in the download, and without what leads elsewhere."""
    made = tmp_path / "made"
    kinds = {"listops": "text", "imdb-4000": "text", "aan": "pair", "cifar10": "image",
             "pathfinder": "image", "path-x": "image"}  # fmt: skip
    for task, kind in kinds.items():
        make_data(kind, made / task, 2)
    (made / "listops" / "src-bin" / "preprocess.log").write_text("not needed")
    server.files = {"MEGA_LRA": zip_of(made, "lra")}
    server.cuts = [5000]
    work = tmp_path / "lra"
    make("lra", "--workdir", work)
    for task in kinds:
        written = {p.relative_to(work / task) for p in (work / task).rglob("*") if p.is_file()}
        assert {str(path) for path in written} >= published.NEEDED[task]
        assert not [path for path in written if path.name == "preprocess.log"]
        assert all(
            (work / task / p).read_bytes() == (made / task / p).read_bytes() for p in written
        )
    assert [path for path, _ in server.requests] == ["MEGA_LRA"] * 2


def test_published_speech_commands(server, tmp_path):
    made = make_data("speech", tmp_path / "made", 10)
    whole = zip_of(made, "speech_commands")
    server.files = {"MEGA_SPEECH_COMMANDS": whole[: len(whole) // 2]}
    work = tmp_path / "sc"
    refused("speech_commands.zip is damaged.*delete it", "speech-commands", "--workdir", work)
    assert not (work / "processed_data").exists()
    for path in (work / "downloads").iterdir():
        path.unlink()
    (made / "processed_data/raw/val_y.pt").unlink()
    server.files = {"MEGA_SPEECH_COMMANDS": zip_of(made, "speech_commands")}
    refused("has no raw/val_y.pt: it is not the file", "speech-commands", "--workdir", work)
    for path in (work / "downloads").iterdir():
        path.unlink()
    server.files = {"MEGA_SPEECH_COMMANDS": whole}
    make("speech-commands", "--workdir", work)
    assert torch.load(work / "processed_data/raw/train_X.pt").shape == (60, 1, 50)


# --- audio -----------------------------------------------------------------------------------


def write_wav(path, samples, rate=16000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(np.asarray(samples, dtype="<i2").tobytes())


def word_folders(folder, words, count=10, length=40):
    draw = np.random.default_rng(1)
    for word in words:
        for i in range(count):
            write_wav(folder / word / f"{i}.wav", draw.integers(-9000, 9000, length))
    return folder


def tensors(work):
    raw = work / "processed_data/raw"
    return {
        stem: (torch.load(raw / f"{stem}_X.pt"), torch.load(raw / f"{stem}_y.pt"))
        for stem in ("train", "val", "test")
    }


def test_audio_is_split_and_standardised(tmp_path):
    """Of the ten published words, in their order; the clip of another length is left out."""
    folder = word_folders(tmp_path / "wavs", speech.WORDS)
    write_wav(folder / "yes/short.wav", np.zeros(39))
    (folder / "_background_noise_").mkdir()
    words = ["audio", "--from", folder, "--samples", 40, "--workdir"]
    make(*words, tmp_path / "data")
    sets = tensors(tmp_path / "data")
    assert {stem: len(y) for stem, (_, y) in sets.items()} == {"train": 80, "val": 10, "test": 10}
    assert torch.bincount(sets["test"][1]).tolist() == [1] * 10
    assert lines(tmp_path / "data/processed_data/classes.txt") == list(speech.WORDS)
    clips = sets["train"][0]
    assert clips.shape == (80, 1, 40) and clips.dtype == torch.float32
    torch.testing.assert_close(clips.mean(0), torch.zeros(1, 40), atol=1e-5, rtol=0)
    torch.testing.assert_close(clips.std(0, correction=0), torch.ones(1, 40), atol=1e-3, rtol=0)
    make(*words, tmp_path / "all", "--standardise", "all", "--fit")
    clips, y = tensors(tmp_path / "all")["train"]
    assert len(y) == 81 and abs(float(clips.mean())) < 1e-5 and abs(float(clips.std()) - 1) < 1e-3


def test_the_split_does_not_depend_on_the_order_of_files():
    names, classes = [f"{i % 3}/{i}.wav" for i in range(60)], [i % 3 for i in range(60)]
    sets = stratified(names, classes, 0.15, seed=0)
    order = np.random.default_rng(0).permutation(60)
    again = stratified([names[i] for i in order], [classes[i] for i in order], 0.15, seed=0)
    for split in SPLITS:
        assert [names[i] for i in sets[split]] == [names[order[i]] for i in again[split]]
    assert sorted(sum(sets.values(), [])) == list(range(60))
    with pytest.raises(PreparationError, match="--held-out is 0.5"):
        stratified(names, classes, 0.5, seed=0)


def test_bad_audio(tmp_path):
    folder = word_folders(tmp_path / "wavs", ["one", "two"])
    words = ["audio", "--from", folder, "--samples", 40, "--workdir", tmp_path / "data"]
    clip = folder / "one/3.wav"
    whole = clip.read_bytes()
    clip.write_bytes(whole[:-20])
    refused("one/3.wav is cut off: it announces 40 samples, but has 30", *words)
    clip.write_bytes(whole[:20])
    refused("one/3.wav is no wav file of plain samples that can be read", *words)
    write_wav(clip, np.zeros(40), rate=8000)
    refused("16000 samples a second, .*one/3.wav has 8000", *words)
    clip.unlink()
    words[4] = 50
    refused("has no clip of 50 samples among 9: give another --samples, or --fit", *words[:4], 50,
            "--workdir", tmp_path / "b")  # fmt: skip
    (folder / "three").mkdir()
    refused(r"three has no samples \(.wav\)", *words[:4], 40, "--workdir", tmp_path / "c")


def test_samples_of_all_widths(tmp_path):
    """As scipy reads them, which is another reader."""
    values = np.linspace(-0.9, 0.9, 50)
    for kind, scale, offset in (("u1", 127, 128), ("i2", 32767, 0), ("i4", 2**31 - 1, 0)):
        path, buffer = tmp_path / f"{kind}.wav", io.BytesIO()
        wavfile.write(buffer, 8000, (values * scale + offset).astype(kind))
        path.write_bytes(buffer.getvalue())
        samples, rate = speech.read_wav(path)
        assert rate == 8000 and np.abs(samples - values).max() < 0.02
