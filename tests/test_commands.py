"""fairseq's commands with ``--user-dir``, on toy data: to reverse sentences, to continue a text.

Each process takes seconds to start, so all processes of a test run share the trained models.
"""

import copy
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import fairseq.options
import fairseq.tasks
import pytest
import torch
from commands import (
    PLUGIN,
    ROOT,
    distributed_options,
    finish,
    logged,
    losses,
    made_once,
    run,
    run_warm,
    start,
    valid_loss,
)
from fairseq.checkpoint_utils import load_model_ensemble_and_task
from helpers import TINY, assert_close, needs_int8, parse

from fairseq_mega import MegaLanguageModel, MegaModel
from fairseq_mega.modules.int8 import Int8Linear

WORDS = [f"w{i}" for i in range(12)]

MEGA = (
    "--arch mega --encoder-layers 2 --decoder-layers 1 --encoder-embed-dim 32 "
    "--encoder-hidden-dim 48 --encoder-ffn-embed-dim 48 --encoder-z-dim 16 --encoder-n-dim 4 "
    "--encoder-chunk-size 4 --normalize-before --weight-init xavier "
    "--max-source-positions 20 --max-target-positions 20 --batch-size 16"
)
MEGA_LM = (
    "--task language_modeling --arch mega_lm --decoder-layers 2 --decoder-embed-dim 24 "
    "--decoder-hidden-dim 32 --decoder-ffn-embed-dim 32 --decoder-z-dim 8 --decoder-n-dim 4 "
    "--decoder-chunk-size 8 --rel-pos-bias rotary --tokens-per-sample 32 --batch-size 8"
)
TRAIN = (
    "--optimizer adam --lr 5e-3 --lr-scheduler linear_decay --warmup-updates 10 "
    "--total-num-update 400 --log-interval 1 --log-format json --no-epoch-checkpoints "
    "--disable-validation --num-workers 0"
)
# fairseq draws the batches of all epochs in the first one after it starts, unless told to redraw
# them in each epoch; only then does a resumed training see the same ones.
RESUMABLE = "--update-epoch-batch-itr True"


# --- data and models ----------------------------------------------------------------------------


def write(path, rows):
    path.write_text("".join(" ".join(row) + "\n" for row in rows))


def random_rows(count, longest, seed):
    generator = random.Random(seed)
    return [generator.choices(WORDS, k=generator.randint(2, longest)) for _ in range(count)]


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Binarised pairs; `train` and `test1` end with one that is longer than the models allow."""

    def make(folder):
        too_long = [["w1"] * 40]
        for i, (split, count) in enumerate(dict(train=200, valid=20, test=20, test1=3).items()):
            rows = random_rows(count, 8, seed=i) + too_long * (split in ("train", "test1"))
            write(folder / f"{split}.src", rows)
            write(folder / f"{split}.tgt", [row[::-1] for row in rows])
        prefixes = f"--trainpref {folder}/train --validpref {folder}/valid"
        prefixes += f" --testpref {folder}/test,{folder}/test1 --destdir {folder}/bin"
        run_warm("preprocess", "-s src -t tgt --joined-dictionary", prefixes)

    return made_once(tmp_path_factory, "pairs", make) / "bin"


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A binarised text whose lines count upwards."""

    def make(folder):
        for i, split in enumerate(("train", "valid", "test")):
            generator, count = random.Random(i), 150 if split == "train" else 20
            runs = [(generator.randrange(12), generator.randint(2, 9)) for _ in range(count)]
            rows = [[WORDS[j % 12] for j in range(first, first + n)] for first, n in runs]
            write(folder / split, rows)
        prefixes = f"--trainpref {folder}/train --validpref {folder}/valid"
        prefixes += f" --testpref {folder}/test --destdir {folder}/bin"
        run_warm("preprocess", "--only-source", prefixes)

    return made_once(tmp_path_factory, "text", make) / "bin"


def trained(folder, data, **more):
    """The data, log and last checkpoint of a training whose output is in `folder`."""
    log, last = (folder / "log").read_text(), folder / "checkpoint_last.pt"
    return SimpleNamespace(data=data, folder=folder, last=last, log=log, **more)


@pytest.fixture(scope="session")
def translation(tmp_path_factory, pairs):
    """A training of 160 updates, with a checkpoint in the middle of an epoch, at update 60."""

    def make(folder):
        output = run(
            "train",
            pairs,
            MEGA,
            TRAIN.replace("--no-epoch-checkpoints --disable-validation", RESUMABLE),
            f"--save-dir {folder} --max-update 160 --save-interval-updates 60",
            "--validate-interval 1000 --save-interval 1000",
            "--criterion label_smoothed_cross_entropy --label-smoothing 0.1",
        )
        (folder / "log").write_text(output)

    folder = made_once(tmp_path_factory, "translation", make)
    (middle,) = folder.glob("checkpoint_*_60.pt")
    return trained(folder, pairs, middle=middle)


@pytest.fixture(scope="session")
def language_model(tmp_path_factory, text):
    def make(folder):
        output = run_warm(
            "train",
            text,
            MEGA_LM,
            TRAIN.replace("--disable-validation", ""),
            f"--save-dir {folder} --max-update 60 --validate-interval 1000",
        )
        (folder / "log").write_text(output)

    return trained(made_once(tmp_path_factory, "language_model", make), text)


@pytest.fixture(scope="session")
def load():
    """Models and dictionary of checkpoints, as the commands load them."""

    def load(*paths):
        models, _, task = load_model_ensemble_and_task([str(path) for path in paths])
        return [model.eval() for model in models], task.target_dictionary

    return load


# --- training -----------------------------------------------------------------------------------


def test_training_learns_and_skips_long_samples(translation, language_model):
    for each in (translation, language_model):
        curve = losses(each.log)
        assert len(curve) == max(curve)
        assert curve[max(curve)] < 0.8 * curve[1]
    assert re.search(r"1 samples have invalid sizes and will be skipped", translation.log)
    assert "max_positions=(20, 20), first few sample ids=[200]" in translation.log


def test_a_resumed_training_continues_exactly(translation, tmp_path):
    """The checkpoint is in the middle of an epoch, and there is dropout."""
    output = run_warm(
        "train",
        translation.data,
        MEGA,
        f"{TRAIN} {RESUMABLE}",
        f"--save-dir {tmp_path} --restore-file {translation.middle} --max-update 160",
        "--criterion label_smoothed_cross_entropy --label-smoothing 0.1",
    )
    resumed, uninterrupted = losses(output), losses(translation.log)
    assert sorted(resumed) == list(range(61, 161))
    assert resumed == {update: uninterrupted[update] for update in resumed}

    ours, theirs = (
        torch.load(path) for path in (tmp_path / "checkpoint_last.pt", translation.last)
    )
    equal = partial(torch.testing.assert_close, rtol=0, atol=0)
    for part in ("model", "last_optimizer_state"):
        equal(ours[part], theirs[part])
    # Sums of the losses since the epoch began, with every digit.
    sums = [
        {name: meter for _, name, _, meter in each["extra_state"]["metrics"]["train"]}
        for each in (ours, theirs)
    ]
    for name in ("loss", "nll_loss", "gnorm"):
        equal(sums[0][name], sums[1][name])


def test_two_processes_train_as_one_that_accumulates_gradients(pairs, tmp_path):
    options = [pairs, MEGA, TRAIN, "--dropout 0 --max-update 12 --peak-tflops 0.5"]
    two, one = tmp_path / "two", tmp_path / "one"
    processes = [
        start("train", *options, f"--save-dir {two} {distributed}")
        for distributed in distributed_options()
    ]
    output = [finish(process) for process in processes][0]
    output_alone = run_warm("train", *options, f"--save-dir {one} --update-freq 2")
    alone, together = losses(output_alone), losses(output)
    assert list(together) == list(alone) == list(range(1, 13))
    assert together == pytest.approx(alone, abs=2e-3)
    models = [torch.load(folder / "checkpoint_last.pt")["model"] for folder in (two, one)]
    assert models[0].keys() == models[1].keys()
    for name, value in models[1].items():
        assert_close(models[0][name], value, 1e-3, name)
    # The utilisation is that of the first device, which has about half of the batches of an update,
    # and all of the first epoch's last update, which has one batch.
    flops, flops_alone = (flops_of_updates(each) for each in (output, output_alone))
    assert flops[7] == pytest.approx(flops_alone[7], rel=0.02)
    assert 0.4 < sum(flops.values()) / sum(flops_alone.values()) < 0.75


def flops_of_updates(output):
    speed, percent, updates = (logged(output, name) for name in ("tflops", "mfu", "ups"))
    assert percent[12] == pytest.approx(100 * speed[12] / 0.5, rel=0.01)
    return {update: speed[update] / updates[update] for update in range(2, 13)}


def test_bits_per_byte_and_utilisation_of_a_language_model(text, tmp_path):
    """Training and fairseq-validate report the bits per byte for which fairseq-eval-lm gives the
    factor."""
    log = run_warm(
        "train",
        text,
        LONG_TEXT,
        TRAIN.replace("--disable-validation", "--bits-per-byte words --peak-tflops 1e-3"),
        f"--save-dir {tmp_path} --max-update 4 --update-freq 2",
    )
    assert all(logged(log, "mfu")[i] > 0 for i in (2, 3, 4))
    bpb = float(re.findall(r'"valid_bpb": "([\d.]+)"', log)[-1])
    options = f"--task mega_language_modeling --path {tmp_path}/checkpoint_last.pt --max-tokens 20"
    output = run_warm("validate", text, options, "--valid-subset valid,test --log-format simple")
    both = re.findall(r"\| bpb ([\d.]+)", output)
    assert float(both[0]) == pytest.approx(bpb, abs=2e-4) and len(both) == 2
    output = run_warm(
        "eval-lm",
        text,
        f"{options} --bits-per-byte words --gen-subset valid --valid-block splits:3",
    )
    size = (text.parent / "valid").stat().st_size
    assert f" are {size:,} bytes of text" in output
    (factor,) = re.findall(r"bits per byte are ([\d.]+) times", output)
    (loss,) = re.findall(r"Loss \(base 2\): ([\d.]+)", output)
    assert float(factor) * float(loss) == pytest.approx(bpb, abs=2e-3)


# --- generation ---------------------------------------------------------------------------------


def generate(data, path, options, subset="test", **kwargs):
    output = run_warm("generate", data, f"--path {path} --gen-subset {subset}", options, **kwargs)
    return Generated(output)


class Generated:
    """The output of fairseq-generate or fairseq-interactive, by sentence."""

    def __init__(self, output):
        self.output = output
        self.sources = self._lines("S")
        self.references = self._lines("T")
        self.hypotheses = {i: line.split("\t")[1] for i, line in self._lines("H").items()}
        self.scores = {i: float(line.split("\t")[0]) for i, line in self._lines("H").items()}
        self.alignments = self._lines("A")

    def _lines(self, kind):
        lines = re.findall(rf"^{kind}-(\d+)\t(.*)$", self.output, re.MULTILINE)
        return {int(i): line for i, line in lines}


@pytest.fixture(scope="session")
def beam(translation):
    options = "--beam 4 --batch-size 8 --print-alignment --max-len-b 20"
    return generate(translation.data, translation.last, options)


def read(dictionary, sentence):
    return dictionary.encode_line(sentence, add_if_not_exist=False).long()


@torch.no_grad()
def log_probs(models, dictionary, source, target):
    """Logarithms (T, V) of the mean of the models' probabilities, and the target's tokens (T,)."""
    source, target = read(dictionary, source).unsqueeze(0), read(dictionary, target)
    previous = torch.cat([target[-1:], target[:-1]]).unsqueeze(0)
    probs = [torch.softmax(model(source, None, previous)[0][0].double(), -1) for model in models]
    return torch.stack(probs).mean(0).log(), target


def check_scores(models, dictionary, generated, count=20):
    """fairseq's score is the mean log-probability of a hypothesis, in base 2."""
    assert len(generated.hypotheses) == count
    for i, hypothesis in generated.hypotheses.items():
        scores, target = log_probs(models, dictionary, generated.sources[i], hypothesis)
        expected = scores.gather(1, target.unsqueeze(1)).mean().item() / math.log(2)
        assert generated.scores[i] == pytest.approx(expected, abs=2e-4)


def test_beam_search_scores_are_those_of_the_model(translation, beam, load):
    check_scores(*load(translation.last), beam)
    assert len(set(beam.hypotheses.values())) > 10
    assert "BLEU4" in beam.output


def test_alignments_point_into_the_source(beam):
    points = set()
    for i, hypothesis in beam.hypotheses.items():
        source, target = len(beam.sources[i].split()), len(hypothesis.split())
        pairs = [tuple(map(int, pair.split("-"))) for pair in beam.alignments[i].split()]
        assert [t for _, t in pairs] == list(range(target))
        assert all(0 <= s < source for s, _ in pairs)
        points |= {s for s, _ in pairs}
    assert len(points) > 2


def test_sampling_and_prefixes(translation, load):
    options = "--beam 1 --sampling --sampling-topk 3 --prefix-size 2 --batch-size 8 --max-len-b 20"
    sampled = generate(translation.data, translation.last, options)
    models, dictionary = load(translation.last)
    ranks = []
    for i, hypothesis in sampled.hypotheses.items():
        assert hypothesis.split()[:2] == sampled.references[i].split()[:2]
        scores, target = log_probs(models, dictionary, sampled.sources[i], hypothesis)
        better = scores > scores.gather(1, target.unsqueeze(1))
        ranks += better.sum(1)[2:-1].tolist()  # the end may be forced by the length
    assert max(ranks) == 2 and min(ranks) == 0


def test_an_ensemble_averages_probabilities(translation, beam, load):
    path = f"{translation.middle}:{translation.last}"
    options = "--beam 4 --batch-size 8 --max-len-b 20"
    ensemble = generate(translation.data, path, options)
    check_scores(*load(translation.middle, translation.last), ensemble)
    assert ensemble.scores != beam.scores


def test_retain_dropout(translation, beam):
    options = "--beam 4 --batch-size 8 --max-len-b 20 --retain-dropout"
    dropped = generate(translation.data, translation.last, options)
    assert dropped.hypotheses.keys() == beam.hypotheses.keys()
    changed = [i for i in beam.scores if abs(dropped.scores[i] - beam.scores[i]) > 1e-3]
    assert len(changed) > 15


def test_interactive_from_elsewhere_with_the_printed_user_dir(translation, beam, tmp_path):
    """``python -m fairseq_mega`` prints the value of ``--user-dir``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "fairseq_mega"]
    printed = subprocess.check_output(program, cwd=tmp_path, env=environment, text=True).strip()
    assert Path(printed) == PLUGIN
    output = run(
        "interactive",
        translation.data,
        f"--path {translation.last} --beam 4 --max-len-b 20 --buffer-size 8 --batch-size 8",
        stdin="".join(f"{beam.sources[i]}\n" for i in range(6)),
        user_dir=printed,
        cwd=tmp_path,
    )
    typed = Generated(output)
    assert typed.hypotheses == {i: beam.hypotheses[i] for i in range(6)}
    assert typed.scores == pytest.approx({i: beam.scores[i] for i in range(6)}, abs=2e-4)


def test_a_sentence_that_is_too_long_is_reported(translation):
    output = generate(translation.data, translation.last, "", subset="test1", fails=True).output
    assert "Size of sample #3 is invalid" in output and "max_positions=(20, 20)" in output
    assert "skip this example with --skip-invalid-size-inputs-valid-test" in output


# --- language models ----------------------------------------------------------------------------


def evaluated(trained, *options):
    """The loss in base 2 of the validation set by fairseq-eval-lm."""
    path = f"--path {trained.last} --gen-subset valid"
    output = run_warm("eval-lm", trained.data, path, *options)
    return float(re.findall(r"Loss \(base 2\): ([\d.]+)", output)[-1])


def test_eval_lm(language_model):
    """The same loss as training reports."""
    options = "--tokens-per-sample 32 --sample-break-mode none --batch-size 3"
    assert evaluated(language_model, options) == pytest.approx(
        valid_loss(language_model.log), abs=2e-3
    )


# --- language modeling on long text -------------------------------------------------------------

LONG_TEXT = MEGA_LM.replace("language_modeling", "mega_language_modeling").replace(
    "--batch-size 8",
    "--variant-block-multiple-min 2 --variant-block-multiple-max 6 --max-tokens 48 "
    "--sample-break-mode complete --valid-block splits:3 --max-target-positions 40",
)
STREAMS = "--task mega_language_modeling --valid-block splits:3 --sample-break-mode complete"
# A plugin that notes epoch, update and samples of each update, and may end its process in one.
RECORDING = """
import json, os, signal
from fairseq_mega import MegaLanguageModelingTask as Task

train_step, begin_epoch = Task.train_step, Task.begin_epoch

def begin_and_note(self, epoch, model):
    self.epoch = epoch
    begin_epoch(self, epoch, model)

def train_and_note(self, sample, model, criterion, optimizer, update_num, ignore_grad=False):
    if update_num == int(os.environ["KILL_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    lengths = sample["net_input"]["src_lengths"]
    blocks = [row[:n].tolist() for row, n in zip(sample["target"], lengths)]
    with open(os.environ["RECORD"], "a") as record:
        print(json.dumps([self.epoch, update_num, blocks]), file=record)
    return train_step(self, sample, model, criterion, optimizer, update_num, ignore_grad)

Task.begin_epoch, Task.train_step = begin_and_note, train_and_note
"""


def start_recorded(folder, data, kill_at=-1):
    """A training of two epochs with a checkpoint after every 7 updates."""
    plugin = folder / "recording"
    plugin.mkdir(exist_ok=True)
    (plugin / "__init__.py").write_text(RECORDING)
    return start(
        "train",
        data,
        LONG_TEXT,
        TRAIN.replace("--disable-validation", ""),
        f"--save-dir {folder} --max-epoch 2 --save-interval-updates 7",
        user_dir=plugin,
        env={"PYTHONPATH": str(ROOT), "RECORD": f"{folder}/record", "KILL_AT": str(kill_at)},
    )


def read_record(folder):
    return [json.loads(line) for line in (folder / "record").read_text().splitlines()]


@pytest.fixture(scope="session")
def long_text(tmp_path_factory, text):
    """A training that is killed in the middle of its second epoch, and started again."""

    def make(folder):
        killed = start_recorded(folder, text, kill_at=38)
        (folder / "killed").write_text("".join(killed.communicate(timeout=300)))
        assert killed.returncode == -signal.SIGKILL
        assert [update for _, update, _ in read_record(folder)] == list(range(38))
        (folder / "log").write_text(finish(start_recorded(folder, text)))

    return trained(made_once(tmp_path_factory, "long_text", make), text)


def epoch_blocks(data, epoch):
    """The samples of an epoch, sorted; that they are all of the text is tested with the dataset."""
    cfg = copy.deepcopy(parse(LONG_TEXT))
    cfg.task.data = str(data)
    task = fairseq.tasks.setup_task(cfg.task)
    task.build_model(cfg.model)
    task.load_dataset("train", epoch=epoch)
    dataset = task.dataset("train")
    return sorted(dataset[i]["target"].tolist() for i in range(len(dataset)))


def recorded_blocks(updates, epoch):
    return sorted(block for number, _, blocks in updates if number == epoch for block in blocks)


def test_a_killed_training_resumes_with_the_remaining_blocks(long_text):
    """The task for long text needs no option for that, unlike fairseq's."""
    updates = read_record(long_text.folder)
    assert "epoch 2 @ 35 updates" in long_text.log
    assert [update for _, update, _ in updates[36:41]] == [36, 37, 35, 36, 37]
    assert updates[35:38] == updates[38:41]  # done again, from the last checkpoint on
    before, after = losses((long_text.folder / "killed").read_text()), losses(long_text.log)
    assert {i: before[i] for i in (36, 37, 38)} == {i: after[i] for i in (36, 37, 38)}
    for epoch in (1, 2):
        assert recorded_blocks(updates[:35] + updates[38:], epoch) == epoch_blocks(
            long_text.data, epoch
        )
    assert epoch_blocks(long_text.data, 1) != epoch_blocks(long_text.data, 2)


@torch.no_grad()
def loss_in_one_pass(long_text, **overrides):
    """Bits per token of the validation set, with each stream read in one pass."""
    (model,), _, task = load_model_ensemble_and_task([str(long_text.last)], overrides)
    task.load_dataset("valid")
    dataset, nll, count = task.dataset("valid"), 0, 0
    assert len(dataset) >= 3 and max(dataset.sizes) > 2 * 16  # segments
    for sample in (dataset[i] for i in range(len(dataset))):
        scores = model.eval()(sample["source"].unsqueeze(0))[0][0].log_softmax(-1)
        nll -= scores.gather(1, sample["target"].unsqueeze(1)).sum().item()
        count += len(sample["target"])
    return nll / count / math.log(2)


def test_streams_are_validated_and_evaluated_as_in_one_pass(long_text):
    """Training, fairseq-validate and fairseq-eval-lm report the loss of one pass."""
    expected = pytest.approx(loss_in_one_pass(long_text), abs=1e-3)
    assert valid_loss(long_text.log) == expected

    options = f"--task mega_language_modeling --path {long_text.last} --max-tokens 20"
    output = run_warm(
        "validate", long_text.data, options, "--valid-subset valid --log-format simple"
    )
    assert float(re.findall(r"valid \| .*\| loss ([\d.]+)", output)[-1]) == expected
    assert evaluated(long_text, STREAMS, "--max-tokens 20 --softmax-batch 30") == expected


def test_published_evaluation(long_text):
    """--test-chunk-size is the model's chunk size, --chunk-nums only bounds memory."""
    published = evaluated(long_text, STREAMS, "--test-chunk-size 16 --chunk-nums 3")
    overrides = "--model-overrides \"{'decoder_chunk_size': 16}\""
    assert published == evaluated(long_text, STREAMS, overrides)
    assert published != pytest.approx(valid_loss(long_text.log), abs=1e-3)


def test_the_previous_chunk_is_added_after_training(long_text):
    found = evaluated(long_text, STREAMS, "--model-overrides \"{'decoder_chunks_before': 1}\"")
    assert found == pytest.approx(loss_in_one_pass(long_text, decoder_chunks_before=1), abs=1e-3)
    assert found != pytest.approx(loss_in_one_pass(long_text), abs=1e-3)


# --- continuing prompts --------------------------------------------------------------------------


def test_prompts_are_continued(language_model):
    """Hypotheses and scores are those of fairseq's own task, even for an empty line, an unknown
    word, and a prompt longer than the training's samples."""
    prompts = ["w3 w4 w5", "", "w1 never w2", " ".join(WORDS[i % 12] for i in range(100)), "w0 w1"]
    output = run_warm(
        "interactive",
        language_model.data,
        f"--task mega_language_modeling --path {language_model.last} --beam 3 --max-len-b 106",
        "--buffer-size 4 --max-sentences 2",
        stdin="".join(f"{prompt}\n" for prompt in prompts),
    )
    typed = Generated(output)
    stock = hub(MegaLanguageModel, language_model)
    for i, prompt in enumerate(prompts):
        tokens = read(stock.task.source_dictionary, prompt)
        best = stock.generate(tokens, beam=3, max_len_b=106)[0]
        assert typed.hypotheses[i] == stock.decode(best["tokens"])
        assert typed.hypotheses[i].startswith(prompt.replace("never", "<unk>"))
        assert typed.scores[i] == pytest.approx(best["score"].item() / math.log(2), abs=2e-4)
    assert typed.hypotheses[0].startswith("w3 w4 w5 w6")
    assert typed.hypotheses[3].split()[100] == WORDS[100 % 12]


# --- from Python --------------------------------------------------------------------------------


def hub(kind, trained, checkpoint="checkpoint_last.pt", **options):
    return kind.from_pretrained(
        str(trained.folder), checkpoint, data_name_or_path=str(trained.data), **options
    )


def test_translate_from_python(translation, beam):
    model = hub(MegaModel, translation)
    sources = [beam.sources[i] for i in range(5)]
    translations = model.translate(sources, beam=4, max_len_b=20)
    assert translations == [beam.hypotheses[i] for i in range(5)]
    (best, *_), *_ = model.generate(
        [model.encode(source) for source in sources], beam=4, max_len_b=20, print_alignment="hard"
    )
    points = [pair.split("-") for pair in beam.alignments[0].split()]
    assert [list(map(str, pair)) for pair in best["alignment"]] == points
    ensemble = hub(MegaModel, translation, f"{translation.middle.name}:checkpoint_last.pt")
    assert len(ensemble.models) == 2
    assert isinstance(ensemble.translate(sources[0]), str)


def test_language_models_from_python(language_model):
    model = hub(MegaLanguageModel, language_model)
    tokens = read(model.task.source_dictionary, "w3 w4 w5 w6")
    with torch.no_grad():
        scores = model.models[0](torch.cat([tokens[-1:], tokens[:-1]]).unsqueeze(0))[0][0]
    expected = scores.log_softmax(-1).gather(1, tokens.unsqueeze(1)).squeeze(1)
    result = model.score("w3 w4 w5 w6")  # fairseq leaves out the end of the sentence
    assert result["tokens"].equal(tokens[:-1])
    assert_close(result["positional_scores"], expected[:-1], 1e-5)

    continued = model.sample("w3 w4 w5", beam=2, max_len_b=20)
    assert continued.startswith("w3 w4 w5 w6")


# --- int8 weights -------------------------------------------------------------------------------

INT8 = "--model-overrides \"{'cpu_int8': True}\""


@needs_int8
def test_int8_translations(translation, beam):
    """Translations equal those from Python, and are close to float32's without being equal."""
    options = "--beam 4 --batch-size 8 --max-len-b 20"
    rounded = generate(translation.data, translation.last, f"{options} {INT8}")
    same = sum(rounded.hypotheses[i] == beam.hypotheses[i] for i in beam.hypotheses)
    assert same > 0.8 * len(beam.hypotheses)
    assert rounded.scores != beam.scores
    assert rounded.scores == pytest.approx(beam.scores, abs=0.1)
    model = hub(MegaModel, translation, cpu_int8=True)
    assert any(isinstance(module, Int8Linear) for module in model.modules())
    sources = [beam.sources[i] for i in range(5)]
    translations = model.translate(sources, beam=4, max_len_b=20)
    assert translations == [rounded.hypotheses[i] for i in range(5)]


@needs_int8
def test_int8_evaluation(language_model):
    exact, rounded = (evaluated(language_model, options) for options in ("", INT8))
    assert exact != rounded and rounded == pytest.approx(exact, abs=0.05)


def test_other_and_missing_checkpoints_are_refused(translation, language_model, tmp_path):
    with pytest.raises(ValueError, match="holds a MegaLanguageModel, not a MegaModel"):
        hub(MegaModel, language_model)
    with pytest.raises(ValueError, match="holds a MegaModel, not a MegaLanguageModel"):
        hub(MegaLanguageModel, translation)
    with pytest.raises(ValueError, match="cpu_int8 must be True or False, not 1"):
        hub(MegaModel, translation, cpu_int8=1)
    with pytest.raises(OSError, match="nothing.pt"):
        hub(MegaModel, translation, "nothing.pt")
    with pytest.raises(OSError, match="nowhere"):
        hub(MegaModel, SimpleNamespace(folder=tmp_path / "nowhere", data=translation.data))


# --- bad input ----------------------------------------------------------------------------------


def test_bad_options_end_before_training(pairs, tmp_path):
    options = f"--encoder-chunk-size 0 --batch-size 8 --save-dir {tmp_path}"
    output = run_warm("train", pairs, TINY["mega"], TRAIN, options, fails=True)
    error = [line for line in output.splitlines() if "rror" in line][-1]
    assert "--encoder-chunk-size is 0" in error and "or -1" in error
    assert "begin training epoch" not in output and not losses(output)


# --- published models ---------------------------------------------------------------------------


def test_published_translation(parity):
    """The published code's hypotheses, and its scores within 1e-3."""
    published = Generated((parity / "translation" / "generate.txt").read_text())
    path = parity / "translation" / "checkpoint.pt"
    data = [parity / "translation" / "data-bin", "-s src -t tgt"]
    ours = Generated(run_warm("generate", *data, f"--path {path} --beam 4 --batch-size 16"))
    assert len(published.hypotheses) == 40
    assert ours.hypotheses == published.hypotheses
    assert ours.scores == pytest.approx(published.scores, abs=1e-3)


def word_scores(output):
    """Words and their log-probabilities, as --output-word-probs prints them."""
    return re.findall(r"(\S+) \[(-[\d.]+)\]", output)


def test_published_language_model(parity):
    """The published evaluation of the test set as one stream: every word, and the perplexity."""
    folder = parity / "language_model"
    output = run_warm(
        "eval-lm",
        folder / "data-bin",
        f"--path {folder / 'checkpoint.pt'} --output-word-probs --sample-break-mode none",
        "--tokens-per-sample 100000 --max-tokens 100000 --max-target-positions 100000",
    )
    assert "Loss (base 2): 4.2914, Perplexity: 19.58" in output
    published, ours = word_scores((folder / "eval.txt").read_text()), word_scores(output)
    assert len(published) > 900
    assert [word for word, _ in ours] == [word for word, _ in published]
    scores = [[float(score) for _, score in each] for each in (ours, published)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
