"""The task ``mega_language_modeling``: trains on samples of varying length, evaluates on streams of
any length, and reads prompts in parallel."""

import logging
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Dict, Iterator, List, Optional, Tuple

from fairseq.data import LMContextWindowDataset
from fairseq.dataclass import ChoiceEnum
from fairseq.distributed import FullyShardedDataParallel
from fairseq.logging import metrics
from fairseq.models import BaseFairseqModel
from fairseq.tasks import register_task
from fairseq.tasks.language_modeling import LanguageModelingConfig, LanguageModelingTask
from omegaconf import II

from ..checkpoints.trust import check_model
from ..data.bytes import UNITS, ByteCounter
from ..data.cutting import cut_into_streams, stream_length
from ..data.text import CutText, EpochSamples, Streams
from ..models.mega_lm import MegaLanguageModel
from ..models.state import DecodingState
from ..modules.checks import check_positive
from .prompts import PromptGenerator

logger = logging.getLogger(__name__)


@dataclass
class MegaLanguageModelingConfig(LanguageModelingConfig):
    variant_block_multiple_min: int = field(
        default=1,
        metadata={
            "help": "length of the shortest training sample, in chunks (--decoder-chunk-size), or "
            "in --tokens-per-sample for a model without chunks; lengths are redrawn for each epoch"
        },
    )
    variant_block_multiple_max: int = field(
        default=1, metadata={"help": "length of the longest training sample, in the same unit"}
    )
    valid_block: Optional[str] = field(
        default=None,
        metadata={
            "help": "read validation and test sets as long streams: size:N for streams of at most "
            "N tokens, splits:K for streams of at most 1/K of the text; streams end with a line "
            "unless --sample-break-mode is none; needs a model with chunks"
        },
    )
    test_chunk_size: Optional[int] = field(
        default=None,
        metadata={"help": "--decoder-chunk-size of loaded models (default: as in training)"},
    )
    chunk_nums: int = field(
        default=2, metadata={"help": "number of chunks of a stream that are read at a time"}
    )
    bits_per_byte: Optional[ChoiceEnum(list(UNITS))] = field(
        default=None,
        metadata={
            "help": "the kind of the dictionary's entries: the validation loss is also logged as "
            "bpb, bits per byte of the detokenised text in UTF-8, which must have no unknown tokens"
        },
    )
    max_tokens: Optional[int] = II("dataset.max_tokens")
    train_subset: str = II("dataset.train_subset")


@register_task("mega_language_modeling", dataclass=MegaLanguageModelingConfig)
class MegaLanguageModelingTask(LanguageModelingTask):
    """Extends fairseq's task ``language_modeling`` to long text.

    Build the model before loading data, as fairseq's commands do: the lengths of training samples
    are multiples of its chunks.
    """

    @classmethod
    def setup_task(cls, args, **kwargs):
        shortest, longest = args.variant_block_multiple_min, args.variant_block_multiple_max
        if not 1 <= shortest <= longest:
            raise ValueError(
                f"--variant-block-multiple-min is {shortest} and --variant-block-multiple-max is "
                f"{longest}, but the first must be at least 1 and the second not below the first"
            )
        if args.valid_block is not None:
            stream_length(args.valid_block, tokens=1)
        check_positive(**{"--chunk-nums": args.chunk_nums})
        return super().setup_task(args, **kwargs)

    def build_model(self, args, from_checkpoint=False):
        """Extends fairseq's method: checkpoints of other models are refused."""
        if from_checkpoint:
            name = getattr(args, "_name", None) or getattr(args, "arch", None)
            check_model(name, MegaLanguageModel, "the checkpoint")
            if self.args.test_chunk_size is not None:
                args.decoder_chunk_size = self.args.test_chunk_size
        model = super().build_model(args, from_checkpoint)
        if isinstance(model, MegaLanguageModel):
            model.segment_chunks = self.args.chunk_nums
        self.segment_length = getattr(model, "segment_length", None)
        self.max_input = model.max_positions()
        return model

    def build_generator(self, models, args, **kwargs):
        """Extends fairseq's method: Mega language models read prompts in parallel."""
        if getattr(args, "print_alignment", None):
            raise ValueError(
                f"--print-alignment is {args.print_alignment}: a language model has no source to "
                "align with; leave it out"
            )
        if all(isinstance(model, MegaLanguageModel) for model in models):
            kwargs.setdefault("seq_gen_cls", PromptGenerator)
        return super().build_generator(models, args, **kwargs)

    def load_dataset(self, split: str, epoch=1, combine=False, **kwargs):
        """Extends fairseq's method: training samples are redrawn for each epoch, and
        ``--valid-block`` makes other sets streams."""
        super().load_dataset(split, epoch, combine, **kwargs)
        dataset = self.datasets[split]
        if split == self.args.train_subset:
            self.datasets[split] = self._training_samples(dataset, epoch)
        elif self.args.valid_block is not None:
            self.datasets[split] = self._streams(dataset)
        if split != self.args.train_subset and self.byte_counter is not None:
            self._log_size(split, self.byte_counter)

    @cached_property
    def byte_counter(self) -> Optional[ByteCounter]:
        unit = self.args.bits_per_byte
        return None if unit is None else ByteCounter(str(unit), self.source_dictionary)

    def _log_size(self, split: str, count: ByteCounter) -> None:
        """Logs the size of a set, because ``fairseq-eval-lm`` logs no metrics of tasks."""
        tokens = size = 0
        for i in range(len(self.datasets[split])):
            sample = self.datasets[split][i]
            tokens += len(sample["target"])
            size += count(sample["source"], sample["target"])
        logger.info(
            f"{split}: {tokens:,} tokens are {size:,} bytes of text: bits per byte are "
            f"{tokens / size:.6f} times the loss per token (base 2)"
        )

    def _training_samples(self, dataset, epoch: int) -> EpochSamples:
        args = self.args
        chunked = self.segment_length is not None
        unit = self.segment_length // args.chunk_nums if chunked else args.tokens_per_sample
        multiples = args.variant_block_multiple_min, args.variant_block_multiple_max
        if self.break_mode != "eos":
            longest = unit * multiples[1]
            limits = {"--max-tokens": args.max_tokens, "--max-target-positions": self.max_input}
            for option, limit in limits.items():
                if limit is not None and longest > limit:
                    raise ValueError(
                        f"--variant-block-multiple-max is {multiples[1]}, for training samples of "
                        f"up to {longest} tokens, but {option} is {limit}: raise it, or lower the "
                        "multiple"
                    )
            dataset.fixed_pad_length = longest if args.pad_to_fixed_length else None
        return EpochSamples(dataset, unit, multiples, self.break_mode, args.seed, epoch)

    def _streams(self, dataset) -> Streams:
        text = CutText(dataset)
        longest = stream_length(self.args.valid_block, int(text.ends[-1]))
        text.cut(cut_into_streams(text.ends, longest, self.break_mode))
        if self.segment_length is None:
            raise ValueError(
                f"--valid-block is {self.args.valid_block}, for streams of up to "
                f"{text.sizes.max()} tokens, but the model has no chunks, and full attention needs "
                "a complete sample at once: set --decoder-chunk-size (for a trained model, with "
                "--model-overrides \"{'decoder_chunk_size': 1024}\"), or leave --valid-block out"
            )
        return Streams(text, self.segment_length)

    @property
    def break_mode(self) -> str:
        return str(self.args.sample_break_mode or "none")

    def eval_lm_dataloader(self, dataset, *, context_window: int = 0, **kwargs):
        """Extends fairseq's method: streams tell the model to read them in segments."""
        if not isinstance(dataset, Streams):
            return super().eval_lm_dataloader(dataset, context_window=context_window, **kwargs)
        text = dataset.dataset
        if context_window > 0:
            pad = self.source_dictionary.pad()
            text = LMContextWindowDataset(text, text.sizes.max(), context_window, pad)
        streams = Streams(text, dataset.segment_length, streaming=True)
        return super().eval_lm_dataloader(streams, **kwargs)

    def valid_step(self, sample, model, criterion):
        """Extends fairseq's method: a model with chunks reads long samples in segments, and
        ``--bits-per-byte`` adds the bytes of the targets to the logging output."""
        loss, sample_size, output = self._read(sample, model, criterion)
        if self.byte_counter is not None:
            ignored = getattr(criterion, "ignore_prefix_size", 0)
            source, target = sample["net_input"]["src_tokens"], sample["target"]
            output["bytes"] = self.byte_counter(source[:, ignored:], target[:, ignored:])
        return loss, sample_size, output

    def reduce_metrics(self, logging_outputs, criterion):
        """Extends fairseq's method: logs bits per byte if the bytes were counted."""
        super().reduce_metrics(logging_outputs, criterion)
        size = sum(output.get("bytes", 0) for output in logging_outputs)
        if size > 0:
            nats = sum(output.get("nll_loss", output["loss"]) for output in logging_outputs)
            metrics.log_scalar("bpb", nats / math.log(2) / size, size, round=4)

    def _read(self, sample, model, criterion) -> Tuple:
        """Returns the loss, sample size and logging output of a sample. Long samples are read in
        segments, in the memory of one, with the loss of one pass without --truncation-length."""
        length = getattr(model, "segment_length", None)
        # An ignored prefix belongs to the sample, not to each segment, and fully sharded layers
        # have their weights only within a pass of the wrapped model.
        if (
            length is None
            or sample["target"].size(1) <= length
            or getattr(criterion, "ignore_prefix_size", 0) > 0
            or isinstance(model, FullyShardedDataParallel)
        ):
            return super().valid_step(sample, model, criterion)
        # Unwrapped, because processes may read different numbers of segments.
        while not isinstance(model, BaseFairseqModel):
            model = model.module
        steps = []
        for segment in split_sample(sample, length, model.decoder.new_state()):
            steps.append(super().valid_step(segment, model, criterion))
        return add_steps(steps, getattr(criterion, "sentence_avg", False))


def split_sample(sample: Dict, length: int, state: DecodingState) -> Iterator[Dict]:
    """Splits a sample into segments of up to ``length`` tokens, which share the state."""
    net_input, target = sample["net_input"], sample["target"]  # target: (B, T)
    tokens = net_input["src_tokens"].split(length, dim=1)
    for i, (words, targets) in enumerate(zip(tokens, target.split(length, dim=1))):
        yield {
            **sample,
            "ntokens": int((net_input["src_lengths"] - i * length).clamp(0, length).sum()),
            "net_input": {**net_input, "src_tokens": words, "state": state},
            "target": targets.contiguous(),
        }


def add_steps(steps: List[Tuple], sentence_avg: bool) -> Tuple:
    """Adds up losses, sample sizes and logging outputs of segments of the same sentences."""
    losses, sample_sizes, outputs = zip(*steps)
    once = {"nsentences", "sample_size"} if sentence_avg else {"nsentences"}
    output = {
        name: value if name in once else sum(output[name] for output in outputs)
        for name, value in outputs[0].items()
    }
    return sum(losses), sample_sizes[0] if sentence_avg else sum(sample_sizes), output
