"""The language model ``mega_lm`` and its presets."""

from typing import Any, Dict, Optional

from fairseq.models import FairseqLanguageModel
from fairseq.modules import AdaptiveInput
from omegaconf import DictConfig
from torch import Tensor

from .base import MegaCheckpointMixin
from .config import MegaLanguageModelConfig
from .decoder import MegaDecoder
from .layers import make_embedding
from .options import Options, bands, check, complete_decoder_sizes, complete_positions, cutoffs
from .registration import (
    MASKED,
    SEQUENCES,
    add_long_text_options,
    check_task,
    register,
    register_presets,
)
from .speed_metrics import log_utilisation
from .state import DecodingState
from .streaming import Stream
from .text_state import OPTIONS, TextState


@register("mega_lm", MegaLanguageModelConfig)
class MegaLanguageModel(MegaCheckpointMixin, FairseqLanguageModel):
    """A Mega decoder alone, for fairseq's ``language_modeling`` task."""

    def __init__(self, decoder: MegaDecoder, cfg: DictConfig):
        super().__init__(decoder)
        self.chunk_size = cfg.decoder_chunk_size
        self.chunks_before = cfg.decoder_chunks_before
        self.segment_chunks = 2
        self.added_positions = int(bool(cfg.add_bos_token))
        self.options = [str(cfg[option]) for option in OPTIONS]
        if self.chunks_before:  # else states saved before this option existed would be refused
            self.options.append(f"{self.chunks_before} chunks before")

    @classmethod
    def add_args(cls, parser) -> None:
        """Adds the options of the model, and those that published commands give to another task."""
        super().add_args(parser)
        add_long_text_options(parser)

    @classmethod
    def build_model(cls, cfg: DictConfig, task) -> "MegaLanguageModel":
        """Builds the model for the dictionary of ``task``."""
        check_task(task, SEQUENCES, MASKED)
        dictionary = task.source_dictionary
        o, words = Options(cfg, MegaLanguageModelConfig), len(dictionary)
        o.default("max_target_positions", o.tokens_per_sample)
        complete_positions(o, "max_target_positions")
        o["max_target_positions"] += bool(o.add_bos_token)
        complete_decoder_sizes(o)
        rules = [bands(o, "softmax", "decoder_embed_dim", words)]
        if o.adaptive_input:  # fairseq's has a row for the padding symbol in each band
            rules.append(bands(o, "input", "decoder_input_dim", words, dictionary.pad() + 1))
        check(o, *rules)
        if o.adaptive_input:
            embedding = AdaptiveInput(
                words,
                dictionary.pad(),
                o.decoder_input_dim,
                o.adaptive_input_factor,
                o.decoder_embed_dim,
                cutoffs(o.adaptive_input_cutoff),
            )
        else:
            embedding = make_embedding(
                dictionary, o.decoder_input_dim, "--decoder-embed-path", o.decoder_embed_path
            )
        decoder = MegaDecoder(o, task.target_dictionary, embedding, cross_attention=False)
        model = cls(decoder, cfg)
        log_utilisation(model, o)
        return model

    def max_positions(self) -> int:
        """The longest sample, without the symbol that ``--add-bos-token`` puts before it."""
        return super().max_positions() - self.added_positions

    @property
    def segment_length(self) -> Optional[int]:
        """The number of tokens of a long text that are read at a time; None without chunks."""
        return self.segment_chunks * self.chunk_size if self.chunk_size > 0 else None

    def forward(
        self,
        src_tokens: Tensor,
        streaming: bool = False,
        state: Optional[DecodingState] = None,
        **kwargs,
    ):
        """
        Args:
            src_tokens: ``(B, T)``.
            streaming: return a ``Stream`` for fairseq's ``SequenceScorer`` if the text is longer
                than a segment.
            state: the tokens continue what this state has read.
            **kwargs: for the decoder.

        Returns:
            logits ``(B, T, V)`` (features ``(B, T, D)`` with an adaptive softmax), and a dict of
            the decoder's other outputs.
        """
        if state is not None:
            return self.decoder.output_layer(self.decoder.read(src_tokens, state)), {}
        segment = self.segment_length
        if streaming and segment is not None and src_tokens.size(1) > segment:
            # The scorer may slice the first (--softmax-batch), but reads only its shape.
            return src_tokens.unsqueeze(2), {}, Stream(self.decoder, src_tokens, segment)
        return super().forward(src_tokens, **kwargs)

    def get_normalized_probs(self, net_output, log_probs: bool, sample=None):
        """(Log-)probabilities ``(B, T, V)``; a ``Stream`` has those of the targets only."""
        if isinstance(net_output[-1], Stream):
            return net_output[-1].scores(sample["target"], log_probs)
        return super().get_normalized_probs(net_output, log_probs, sample)

    def start(self, batch: int = 1) -> TextState:
        """Starts to read ``batch`` texts piece by piece. Like ``restore``, it needs a model with
        chunks, in evaluation."""
        self.check_state()
        return TextState(self, batch)

    def restore(self, saved: Dict[str, Tensor]) -> TextState:
        """Restores what ``TextState.save`` returned.

        Raises:
            ValueError: if it belongs to another model.
        """
        self.check_state()
        return TextState.restored(self, saved)

    def check_state(self) -> None:
        """
        Raises:
            ValueError: if the model cannot keep a state.
        """
        if self.training:
            raise ValueError("the model is in training mode, with dropout: call eval() first")
        if self.segment_length is None:
            raise ValueError(
                "--decoder-chunk-size is -1: full attention keeps every token, and has no state of "
                "constant size. Use a model with chunks"
            )


def _sizes(layers: int, dim: int, hidden: int) -> Dict[str, Any]:
    return dict(
        decoder_layers=layers,
        decoder_embed_dim=dim,
        decoder_hidden_dim=hidden,
        decoder_ffn_embed_dim=hidden,
    )


_BIG = dict(_sizes(16, 1024, 2048), decoder_z_dim=256)
_ADAPTIVE = dict(
    dropout=0.3,
    attention_dropout=0.1,
    hidden_dropout=0.1,
    activation_dropout=0.1,
    adaptive_input=True,
    adaptive_input_cutoff="20000,60000",
    adaptive_softmax_cutoff="20000,60000",
    adaptive_softmax_dropout=0.2,
    tie_adaptive_weights=True,
    tie_adaptive_proj=True,
)

register_presets(
    MegaLanguageModel,
    MegaLanguageModelConfig,
    {
        "mega_lm_big": _BIG,
        "mega_lm_adaptive_base": {**_sizes(16, 768, 1536), **_ADAPTIVE},
        "mega_lm_adaptive_big": {**_BIG, **_ADAPTIVE},
        "mega_lm_wiki103": {**_BIG, **_ADAPTIVE},
        "mega_lm_enwik8_base": _sizes(12, 512, 1024),
        "mega_lm_enwik8_large": dict(
            _sizes(24, 1024, 1536), dropout=0.2, attention_dropout=0.1, hidden_dropout=0.1
        ),
        # For new trainings on long texts: chunks, and an EMA that remembers beyond them from the
        # start.
        "mega_lm_long": dict(
            decoder_chunk_size=512,
            rel_pos_bias="rotary",
            normalize_before=True,
            weight_init="xavier",
            ema_init="spread",
            truncation_length=0,
        ),
    },
)
