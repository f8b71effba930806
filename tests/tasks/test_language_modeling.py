"""The task ``mega_language_modeling``, as fairseq's commands set it up and call it."""

import copy
from itertools import chain

import fairseq.tasks
import pytest
import torch
from fairseq.criterions import build_criterion
from fairseq.data import indexed_dataset
from fairseq.distributed import ModuleProxyWrapper
from fairseq.logging import metrics
from helpers import SIZES, batch_of, make_dictionary, parse, scatter, sentences
from tokenised import TEXT, dictionary_of, lines_of
from torch import nn

WORDS = 30
CHUNK = 4
TASK = (
    "--arch mega_lm --task mega_language_modeling --decoder-layers 2 --tokens-per-sample 16 "
    f"--rel-pos-bias rotary --decoder-chunk-size {CHUNK} --truncation-length 0 --max-tokens 48 "
    + " ".join(f"--decoder-{name} {size}" for name, size in SIZES.items())
)
VARIANT = {"variant_block_multiple_min": 1, "variant_block_multiple_max": 4}
MODES = ("none", "complete", "complete_doc", "eos")
# Lines, with ends of documents, and a line longer than any sample.
LENGTHS = [5, 9, 1, 3, 8, 40, 2, 1, 1, 7] * 6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Binarises a text: two parts of a training set, and a validation set."""
    folder = tmp_path_factory.mktemp("data")
    for i, name in enumerate(("part1/train", "part2/train", "part1/valid")):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        make_dictionary(WORDS).save(str(path.parent / "dict.txt"))
        builder = indexed_dataset.make_builder(f"{path}.bin", "mmap", vocab_size=WORDS)
        for line in sentences(*LENGTHS, words=WORDS, seed=i):
            builder.add_item(line)
        builder.finalize(f"{path}.idx")
    return folder


@pytest.fixture
def make_task(data):
    def make_task(criterion="cross_entropy", parts=("part1",), **options):
        """Returns the task, its model and the configuration."""
        cfg = copy.deepcopy(parse(f"{TASK} --criterion {criterion}"))
        cfg.task.data = ":".join(str(data / part) for part in parts)
        for name, value in options.items():
            for part in (part for part in (cfg.task, cfg.model) if name in part):
                part[name] = value
        task = fairseq.tasks.setup_task(cfg.task)
        return task, scatter(task.build_model(cfg.model)).double().eval(), cfg

    return make_task


def iterator(task, epoch=1, seed=1, **options):
    """Makes batches of the training set as fairseq's trainer does."""
    options = {"max_tokens": 48, "required_batch_size_multiple": 8, **options}
    return task.get_batch_iterator(
        task.dataset("train"), max_positions=48, ignore_invalid_inputs=True, epoch=epoch, **options
    )


def targets_of(batches):
    """Returns the targets of all samples, sorted."""
    pad = make_dictionary(4).pad()
    rows = [row for batch in batches if batch for row in batch["target"]]
    return sorted(row[row != pad].tolist() for row in rows)


def lines(seed):
    return [line.tolist() for line in sentences(*LENGTHS, words=WORDS, seed=seed)]


def tokens_of(targets):
    return sorted(chain(*targets))


# --- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_the_batches_of_an_epoch_are_those_of_its_samples(make_task, mode):
    """Each epoch has every token once, and no batch is too large."""
    task, _, _ = make_task(**VARIANT, sample_break_mode=mode)
    task.load_dataset("train", epoch=1)
    expected = lines(seed=0)
    if mode == "complete_doc":
        expected = [line for line in expected if len(line) > 1]
    epochs = []
    for epoch in (1, 2, 3):
        batches = list(iterator(task, epoch).next_epoch_itr())
        assert all(batch["target"].numel() <= 48 for batch in batches)
        epochs.append(targets_of(batches))
        assert tokens_of(epochs[-1]) == tokens_of(expected)
    assert (epochs[0] == epochs[1]) == (mode == "eos")
    if mode == "none":
        assert {len(target) for target in epochs[0]} >= {CHUNK, 2 * CHUNK, 3 * CHUNK, 4 * CHUNK}


def test_workers_share_the_samples_of_a_part_of_the_data(make_task):
    for epoch, seed in ((1, 0), (2, 1), (3, 0)):  # the parts take turns
        task, _, _ = make_task(**VARIANT, parts=("part1", "part2"))
        task.load_dataset("train", epoch=1)
        assert task.has_sharded_data("train")
        task.load_dataset("train", epoch=epoch)
        alone, together = targets_of(iterator(task, epoch).next_epoch_itr()), []
        for shard in (0, 1, 2):
            batches = iterator(task, epoch, num_shards=3, shard_id=shard).next_epoch_itr()
            together += targets_of(batches)
        assert sorted(together) == alone and tokens_of(alone) == tokens_of(lines(seed))


def test_other_options_of_fairseq(make_task):
    """They are set together: tokens before and after, fewer target words, padding, short lines."""
    task, _, _ = make_task(
        **VARIANT,
        add_bos_token=True,
        output_dictionary_size=20,
        pad_to_fixed_length=True,
        shorten_method="truncate",
        sample_break_mode="complete",
    )
    task.load_dataset("train")
    dataset = task.dataset("train")
    batch = dataset.collater([dataset[0], dataset[1]])
    source, target = batch["net_input"]["src_tokens"], batch["target"]
    assert source.shape == target.shape == (2, 4 * CHUNK)
    bos, unk = task.source_dictionary.bos(), task.source_dictionary.unk()
    assert (source[:, 0] == bos).all() and (target[:, 0] == bos).all()
    first = sum((line[:16] for line in lines(seed=0)), [])[: dataset.sizes[0]]
    expected = [token if token < 20 else unk for token in first]
    assert target[0, 1 : 1 + len(first)].tolist() == expected
    assert max(dataset.sizes) <= 16  # as tokens per sample


# --- validation and test sets -------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode, option, count",
    [("none", "splits:3", 3), ("complete", "size:100", None), ("complete_doc", "splits:3", 3)],
)
def test_streams_are_batched_whatever_their_length(make_task, mode, option, count):
    """Limits such as --max-tokens are for segments, not for streams."""
    task, model, _ = make_task(valid_block=option, sample_break_mode=mode, max_target_positions=20)
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    batches = task.get_batch_iterator(
        dataset,
        max_tokens=20,  # of segments of 8
        max_positions=model.max_positions(),
        required_batch_size_multiple=8,
    ).next_epoch_itr(shuffle=False)
    batches = list(batches)
    streams = targets_of(batches)
    assert tokens_of(streams) == tokens_of(lines(seed=2))
    assert len(streams) == len(dataset) == (count or len(streams))
    assert max(map(len, streams)) > 80
    assert {len(batch["target"]) for batch in batches} <= {1, 2}
    assert not any("streaming" in batch["net_input"] for batch in batches)


@pytest.mark.parametrize("window", [0, 6])
def test_evaluation_asks_the_model_to_stream(make_task, window):
    task, model, _ = make_task(valid_block="splits:3")
    task.load_dataset("valid")
    seen = []
    for shard in (0, 1):
        loader = task.eval_lm_dataloader(
            dataset=task.dataset("valid"),
            max_tokens=8,
            max_positions=model.max_positions(),
            num_shards=2,
            shard_id=shard,
            num_workers=0,
            context_window=window,
        )
        for batch in filter(None, loader):
            assert batch["net_input"]["streaming"] is True
            starts = batch.get("start_indices", [0])
            assert starts == [window if seen and window and shard == 0 else 0]
            seen += targets_of([batch])
    assert tokens_of(seen) == tokens_of(lines(seed=2))


# --- validation in segments ---------------------------------------------------------------------


def sample_of(*lengths):
    rows = sentences(*lengths, words=WORDS)
    sources = [torch.cat([row[-1:], row[:-1]]) for row in rows]
    return {
        "id": torch.arange(len(rows)),
        "nsentences": len(rows),
        "ntokens": sum(lengths),
        "net_input": {"src_tokens": batch_of(sources), "src_lengths": torch.tensor(lengths)},
        "target": batch_of(rows),
    }


class Reads:
    """Records how many tokens the model's layers read at a time."""

    def __init__(self, model):
        self.lengths = []
        model.decoder.layers[0].register_forward_pre_hook(
            lambda layer, inputs: self.lengths.append(inputs[0].size(1))
        )


@pytest.mark.parametrize(
    "criterion, lengths",
    [
        ("cross_entropy", (29, 3, 17)),
        ("cross_entropy --sentence-avg", (9, 8)),
        ("label_smoothed_cross_entropy --label-smoothing 0.1 --report-accuracy", (24, 24)),
        ("label_smoothed_cross_entropy --ignore-prefix-size 3", (30, 12)),
        (
            "adaptive_loss --ddp-backend legacy_ddp --adaptive-softmax-cutoff 8,16 "
            "--adaptive-softmax-factor 2",
            (30,),
        ),
    ],
)
def test_validation_in_segments_equals_one_pass(make_task, criterion, lengths):
    task, model, cfg = make_task(criterion)
    criterion = build_criterion(cfg.criterion, task).eval()
    sample, reads = sample_of(*lengths), Reads(model)
    with torch.no_grad():
        expected = criterion(model, copy.deepcopy(sample))
    assert reads.lengths.pop() == max(lengths)
    loss, sample_size, logged = task.valid_step(sample, model, criterion)
    assert sum(reads.lengths) == max(lengths)
    if not getattr(criterion, "ignore_prefix_size", 0):
        assert max(reads.lengths) <= model.segment_length == 8

    assert loss.item() == pytest.approx(expected[0].item(), rel=1e-6)
    assert sample_size == expected[1]
    assert logged.keys() == expected[2].keys()
    for name, value in expected[2].items():
        assert float(logged[name]) == pytest.approx(float(value), rel=1e-6), name


class Wrapper(nn.Module):
    """Must not be called, because it would wait for processes with fewer segments."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        raise AssertionError("called")


def test_wrapped_models_are_validated_in_segments(make_task):
    task, model, cfg = make_task()
    criterion = build_criterion(cfg.criterion, task).eval()
    expected, _, _ = task.valid_step(sample_of(30, 12), model, criterion)
    reads = Reads(model)
    wrapped = ModuleProxyWrapper(Wrapper(model))
    loss, _, _ = task.valid_step(sample_of(30, 12), wrapped, criterion)
    assert loss.item() == expected.item() > 0
    assert reads.lengths == [8, 8, 8, 6]


# --- bits per byte ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unit, valid_block", [("sentencepiece", "splits:2"), ("words", None), ("bytes", "splits:2")]
)
def test_bits_per_byte_are_the_bits_of_the_tokens_over_the_bytes_of_the_file(
    make_task, tmp_path, unit, valid_block
):
    lines = lines_of(unit)
    dictionary = dictionary_of(lines)
    dictionary.save(str(tmp_path / "dict.txt"))
    builder = indexed_dataset.make_builder(f"{tmp_path}/valid.bin", "mmap", vocab_size=100)
    text = [dictionary.encode_line(" ".join(line), add_if_not_exist=False) for line in lines]
    for line in text:
        builder.add_item(line)
    builder.finalize(f"{tmp_path}/valid.idx")
    options = {"bits_per_byte": unit, "valid_block": valid_block, "tokens_per_sample": 16}
    task, model, cfg = make_task(parts=(tmp_path,), **options)
    task.load_dataset("valid")
    criterion = build_criterion(cfg.criterion, task).eval()
    dataset, bits = task.dataset("valid"), 0
    with metrics.aggregate(new_root=True) as logged, torch.no_grad():
        for i in range(len(dataset)):  # a batch each, as fairseq's trainer logs them
            sample = dataset.collater([dataset[i]])
            probs = model(sample["net_input"]["src_tokens"])[0][0].softmax(-1)
            bits -= probs[range(len(probs)), sample["target"][0]].log2().sum().item()
            _, _, output = task.valid_step(sample, model, criterion)
            task.reduce_metrics([output], criterion)
    assert len(dataset) > 1 and sum(dataset.sizes) == sum(map(len, text))
    assert logged["bpb"].avg.item() == pytest.approx(bits / len(TEXT.encode()), rel=1e-6)


# --- bad input ----------------------------------------------------------------------------------


def multiples(shortest, longest):
    return {"variant_block_multiple_min": shortest, "variant_block_multiple_max": longest}


@pytest.mark.parametrize(
    "options, split, says",
    [
        (multiples(3, 2), None, ["--variant-block-multiple-min is 3", "-max is 2", "not below"]),
        (multiples(0, 2), None, ["--variant-block-multiple-min is 0", "at least 1"]),
        ({"valid_block": "splits:no"}, None, ["--valid-block is 'splits:no'", "splits:K"]),
        (
            multiples(1, 13),
            "train",
            ["--variant-block-multiple-max is 13", "up to 52 tokens", "--max-tokens is 48"],
        ),
        (
            {"decoder_chunk_size": -1, "rel_pos_bias": "simple", **multiples(1, 2)},
            "train",
            ["up to 32 tokens", "--max-target-positions is 16", "raise it, or lower"],
        ),
        (
            {"decoder_chunk_size": -1, "valid_block": "size:231"},
            "valid",
            ["--valid-block is size:231", "231 tokens", "full attention", "--decoder-chunk-size"],
        ),
    ],
)
def test_bad_options(make_task, options, split, says):
    """Options out of range are refused before a dictionary is read."""
    with pytest.raises(ValueError) as error:
        task, _, _ = make_task(parts=("part1" if split else "nowhere",), **options)
        task.load_dataset(split)
    for words in says:
        assert words in str(error.value)
