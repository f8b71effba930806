"""fairseq's tasks and criteria train Mega's models wherever they train fairseq's own: a table.

A cell makes two updates and validates a batch, in this process. The table has all that fairseq
registers except speech, special models, and combinations that fail with fairseq's own models.
"""

import copy
import itertools
import math
import random

import pytest
import torch
from classification import dictionary_of, write_lines
from commands import PLUGIN, distributed_options, finish, losses, run_warm, start
from fairseq.data import indexed_dataset
from helpers import parse_with_hydra
from trainers import make_trainer

WORDS = [f"w{i}" for i in range(20)]
UPDATES = 2
TRAIN = (
    "--optimizer adam --lr 1e-3 --clip-norm 1.0 --cpu --seed 1 --num-workers 0 --batch-size 4 "
    f"--required-batch-size-multiple 1 --max-update {UPDATES}"
)


def name_of(options):
    return options.split()[0]


# --- models -------------------------------------------------------------------------------------

ENCODER = "--encoder-layers 1 --encoder-embed-dim 12 --encoder-ffn-embed-dim 20"
DECODER = "--decoder-layers 1 --decoder-embed-dim 12 --decoder-ffn-embed-dim 20"
MEGA_SIZES = "--{0}-hidden-dim 16 --{0}-z-dim 4 --{0}-n-dim 3"
SEQUENCES = f"--arch mega {ENCODER} {MEGA_SIZES.format('encoder')}"
TEXTS = f"--arch mega_lm {DECODER} {MEGA_SIZES.format('decoder')}"
MASKED = f"--arch mega_masked_lm {ENCODER} {MEGA_SIZES.format('encoder')} --max-positions 32"
# sentence_prediction has the longest sequence among its own options.
SENTENCES = MASKED.replace("--max-positions 32", "")

# --- tasks and criteria -------------------------------------------------------------------------

POSITIONS = "--max-source-positions 32 --max-target-positions 32"
PAIR = f"--source-lang src --target-lang tgt {POSITIONS}"
PAIRS = f"--langs src,tgt --encoder-langtok src --decoder-langtok {POSITIONS}"
ADAPTIVE = (
    "adaptive_loss --adaptive-softmax-cutoff 8,16 --adaptive-softmax-factor 2 "
    "--ddp-backend legacy_ddp"
)
SMOOTHED = "label_smoothed_cross_entropy --label-smoothing 0.1"
ALIGNED = "label_smoothed_cross_entropy_with_alignment --label-smoothing 0.1"
RDROP = "label_smoothed_cross_entropy_with_rdrop --label-smoothing 0.1 --rdrop-alpha 1"
COMPOSITE = "composite_loss --underlying-criterion cross_entropy"
RANKING = "sentence_ranking --num-classes 2 --init-token 0"
PREDICTION = "sentence_prediction --num-classes 2 --init-token 0"
OF_WORDS = ("cross_entropy", SMOOTHED, ADAPTIVE)
OF_SEQUENCES = (*OF_WORDS, RDROP, COMPOSITE)
TABLE = [
    (SEQUENCES, f"translation {PAIR}", OF_SEQUENCES),
    (SEQUENCES, f"translation {PAIR} --load-alignments", (SMOOTHED, ALIGNED)),
    (SEQUENCES, f"translation_lev {PAIR}", ("cross_entropy", SMOOTHED)),
    (
        SEQUENCES,
        f"translation_multi_simple_epoch --lang-pairs src-tgt,tgt-src {PAIRS}",
        OF_SEQUENCES,
    ),
    (
        SEQUENCES,
        f"translation_multi_simple_epoch --lang-pairs src-tgt --load-alignments {PAIRS}",
        (ALIGNED,),
    ),
    (SEQUENCES, f"denoising --mask 0.3 --tokens-per-sample 32 {POSITIONS}", OF_SEQUENCES),
    (
        SEQUENCES,
        f"multilingual_denoising --mask 0.3 --tokens-per-sample 32 --add-lang-token {POSITIONS}",
        OF_WORDS,
    ),
    (SEQUENCES, f"span_masked_lm --tokens-per-sample 32 {POSITIONS}", OF_WORDS),
    (
        SEQUENCES,
        f"online_backtranslation --mono-langs src,tgt --valid-lang-pairs src-tgt {POSITIONS}",
        ("cross_entropy", SMOOTHED),  # it extends an output projection by the languages
    ),
    (TEXTS, "language_modeling --tokens-per-sample 16", OF_WORDS),
    (TEXTS, "language_modeling --tokens-per-sample 16 --add-bos-token", ("cross_entropy",)),
    (TEXTS, "mega_language_modeling --tokens-per-sample 16", OF_WORDS),
    # fairseq cannot sample languages with the default of this option.
    (
        TEXTS,
        "multilingual_language_modeling --tokens-per-sample 16 --multilang-sampling-alpha 0.7",
        OF_WORDS,
    ),
    (
        TEXTS,
        "multilingual_language_modeling --tokens-per-sample 16 --multilang-sampling-alpha 0.7 "
        "--add-bos-token",
        ("cross_entropy",),
    ),
    (MASKED, "masked_lm --tokens-per-sample 16 --mask-prob 0.3", ("masked_lm",)),
    (MASKED, "multilingual_masked_lm --tokens-per-sample 16 --mask-prob 0.3", ("masked_lm",)),
    (
        SENTENCES,
        f"{PREDICTION} --max-positions 32",
        ("sentence_prediction",),
    ),
    (
        SENTENCES,
        f"{PREDICTION.replace('2', '1')} --max-positions 32",
        ("sentence_prediction --regression-target",),
    ),
    (MASKED, RANKING, ("sentence_ranking",)),
]
CELLS = [
    pytest.param(arch, task, criterion, id=f"{name_of(task)}-{name_of(criterion)}")
    for arch, task, criteria in TABLE
    for criterion in criteria
]
# What only special models of fairseq's learn, and what the error says.
REFUSED = [
    (
        f"translation_lev {PAIR} --noise random_delete",
        "nat_loss",
        "--criterion nat_loss is for models that predict all words at once, .* use --criterion",
    ),
    (
        f"multilingual_translation --lang-pairs src-tgt {POSITIONS}",
        "cross_entropy",
        "multilingual_translation needs a multi-model, .*use --task translation_multi_simple_epoch",
    ),
]
# Tasks for which neither Mega's model nor fairseq's own is meant.
MISPLACED = [
    (SEQUENCES, "language_modeling", "cross_entropy", "use --arch mega_lm"),
    (SEQUENCES, "masked_lm", "masked_lm", "use --arch mega_masked_lm"),
    (SEQUENCES, PREDICTION, "sentence_prediction", "has none: use --arch mega_masked_lm"),
    (SEQUENCES, RANKING, "sentence_ranking", "has none: use --arch mega_masked_lm"),
    (TEXTS, f"translation {PAIR}", "cross_entropy", "use --arch mega "),
    (TEXTS, "span_masked_lm", "cross_entropy", "use --arch mega "),
    (TEXTS, "masked_lm", "cross_entropy", "use --arch mega_masked_lm"),
    (TEXTS, PREDICTION, "sentence_prediction", "has none: use --arch mega_masked_lm"),
    (MASKED, f"translation {PAIR}", "cross_entropy", "use --arch mega "),
    (MASKED, "span_masked_lm", "masked_lm", "use --arch mega "),
    (MASKED, "language_modeling", "cross_entropy", "use --arch mega_lm"),
    (
        MASKED,
        PREDICTION.replace("prediction", "prediction_adapters"),
        "sentence_prediction_adapters",
        "a model with adapters, but --arch mega_masked_lm has none: use --task sentence_prediction",
    ),
    (SENTENCES, RANKING, "sentence_ranking", "sentence_ranking does not say .*give --max-positi"),
]

# --- data ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The same few sentences, binarised in each task's layout: ``pairs``, with a folder for each
    language, ``texts``, and ``sentences`` with classes."""
    folder = tmp_path_factory.mktemp("pipelines")
    pairs, texts, sentences = (folder / name for name in ("pairs", "texts", "sentences"))
    words, labels, generator = dictionary_of(WORDS), dictionary_of("01"), random.Random(1)
    for split, count in {"train": 24, "valid": 8}.items():
        rows = [generator.choices(WORDS, k=generator.randint(3, 9)) for _ in range(count)]
        classes = [str(i % 2) for i in range(count)]
        write_lines(texts / split, rows, words)
        for name in ("src-tgt.src", "src-tgt.tgt", "tgt-src.src", "tgt-src.tgt"):
            write_lines(pairs / f"{split}.{name}", rows, words)
        write_alignments(pairs / f"{split}.align.src-tgt", map(len, rows))
        for skipped, language in enumerate(("src", "tgt")):
            write_lines(pairs / language / split, rows[4 * skipped :], words)
        for name in ("input0", "input1", "input2"):
            write_lines(sentences / name / split, rows, words)
        write_lines(sentences / "label" / split, [[each] for each in classes], labels)
        (sentences / "label" / f"{split}.label").write_text("".join(f"{c}\n" for c in classes))
    for name in ("dict.txt", "dict.src.txt", "dict.tgt.txt"):
        words.save(str(pairs / name))
    return folder


def write_alignments(path, lengths):
    """Word i of a sentence of each of these lengths is aligned with word i."""
    builder = indexed_dataset.make_builder(f"{path}.bin", "mmap")
    for length in lengths:
        builder.add_item(torch.arange(length).repeat_interleave(2).int())
    builder.finalize(f"{path}.idx")


def folder_of(task):
    """The name of the folder in `data`."""
    if name_of(task).startswith("sentence"):
        return "sentences"
    several = name_of(task).startswith(("translation", "multilingual", "online"))
    return "pairs" if several else "texts"


# --- the table ----------------------------------------------------------------------------------


def train(arch, task, criterion, data, folder):
    """The model after the updates, whose losses are checked."""
    cfg = copy.deepcopy(parse_with_hydra(f"--task {task} {arch} --criterion {criterion} {TRAIN}"))
    cfg.task.data = str(data / folder_of(task))
    cfg.checkpoint.save_dir = str(folder)  # where the trainer puts its state if an update fails
    trainer = make_trainer(cfg)
    batches = trainer.get_train_iterator(1).next_epoch_itr(shuffle=True)
    trainer.begin_epoch(1)
    for batch in itertools.islice(batches, UPDATES):
        log = trainer.train_step([batch])
        assert all(map(math.isfinite, log.values())), log
    assert trainer.get_num_updates() == UPDATES
    trainer.task.load_dataset("valid")
    valid = trainer.get_valid_iterator("valid").next_epoch_itr(shuffle=False)
    trainer.valid_step(next(valid))
    return trainer.get_model()


@pytest.mark.parametrize("arch, task, criterion", CELLS)
def test_mega_trains_wherever_fairseqs_model_does(arch, task, criterion, data, tmp_path):
    model = train(arch, task, criterion, data, tmp_path)
    assert not [name for name, each in model.named_parameters() if each.grad is None]


@pytest.mark.parametrize("task, criterion, says", REFUSED, ids=["nat_loss", "pairs"])
def test_tasks_of_special_models_are_refused(task, criterion, says, data, tmp_path):
    with pytest.raises(ValueError, match=says):
        train(SEQUENCES, task, criterion, data, tmp_path)


@pytest.mark.parametrize("arch, task, criterion, says", MISPLACED, ids=range(len(MISPLACED)))
def test_tasks_of_other_models_are_refused(arch, task, criterion, says, data, tmp_path):
    with pytest.raises(ValueError, match=says):
        train(arch, task, criterion, data, tmp_path)


# --- whole commands -----------------------------------------------------------------------------

HYDRA = """
common: {{user_dir: {plugin}, cpu: true}}
checkpoint: {{save_dir: {folder}}}
dataset: {{batch_size: 4, required_batch_size_multiple: 1, num_workers: 0}}
optimization: {{lr: [0.001], max_update: {updates}}}
optimizer: {{_name: adam}}
lr_scheduler: {{_name: fixed}}
criterion: {{_name: {criterion}}}
task: {{_name: {task}, data: {data}}}
model: {{_name: {arch}, {side}_layers: 1, {side}_embed_dim: 12, {side}_n_dim: 3}}
hydra: {{run: {{dir: {folder}/hydra}}}}
"""


@pytest.mark.parametrize(
    "arch, side, task, criterion",
    [
        (
            "mega",
            "encoder",
            "translation, source_lang: src, target_lang: tgt",
            "label_smoothed_cross_entropy_with_rdrop, rdrop_alpha: 1",
        ),
        ("mega", "encoder", "denoising, mask: 0.3", "label_smoothed_cross_entropy"),
        ("mega_masked_lm", "encoder", "masked_lm, tokens_per_sample: 16", "masked_lm"),
    ],
)
def test_hydra_train(arch, side, task, criterion, data, tmp_path):
    values = dict(arch=arch, side=side, task=task, criterion=criterion, updates=UPDATES)
    where = dict(plugin=PLUGIN, folder=tmp_path, data=data / folder_of(task.replace(",", "")))
    (tmp_path / "cell.yaml").write_text(HYDRA.format(**values, **where))
    output = run_warm("hydra-train", f"--config-dir {tmp_path} --config-name cell")
    checkpoint = torch.load(tmp_path / "checkpoint_last.pt")
    assert checkpoint["optimizer_history"][-1]["num_updates"] == UPDATES, output[-1500:]


def test_two_processes(data, tmp_path):
    """A task of several pairs of languages, with R-Drop."""
    _, task, _ = next(row for row in TABLE if name_of(row[1]) == "translation_multi_simple_epoch")
    options = f"{SEQUENCES} --task {task} --criterion {RDROP} {TRAIN.replace('--cpu', '')}"
    log = f"--save-dir {tmp_path} --log-interval 1 --log-format json"
    processes = [
        start("train", data / "pairs", options, log, distributed)
        for distributed in distributed_options()
    ]
    output = [finish(process) for process in processes][0]
    assert list(losses(output)) == [1, 2]
