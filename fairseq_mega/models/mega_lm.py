"""The language model ``mega_lm`` and its presets."""

from typing import Dict, Optional

from fairseq.models import FairseqLanguageModel
from fairseq.modules import AdaptiveInput
from omegaconf import DictConfig
from torch import Tensor

from .base import MegaCheckpointMixin
from .config import MegaLanguageModelConfig
from .decoder import MegaDecoder
from .layers import make_embedding
from .options import (
    Options,
    bands,
    check,
    complete_decoder_sizes,
    complete_positions,
    cutoffs,
)
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
    """A Mega decoder alone, for fairseq's ``language_modeling`` task.

    Args:
        decoder: a ``MegaDecoder``.
        cfg: the ``MegaLanguageModelConfig`` that it was built from.
    """

    def __init__(self, decoder: MegaDecoder, cfg: DictConfig):
        super().__init__(decoder)
        self.chunk_size = cfg.decoder_chunk_size
        self.segment_chunks = 2
        self.added_positions = int(bool(cfg.add_bos_token))
        self.options = [str(cfg[option]) for option in OPTIONS]

    @classmethod
    def add_args(cls, parser) -> None:
        """Adds the options of the model, and those that published commands give to another task."""
        super().add_args(parser)
        add_long_text_options(parser)

    @classmethod
    def build_model(cls, cfg: DictConfig, task) -> "MegaLanguageModel":
        """Builds the model for the dictionary of ``task``.

        Raises:
            ValueError: at an option out of range; names the option, its value and what to do.
        """
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
        model = cls(
            MegaDecoder(
                o,
                task.target_dictionary,
                cls.build_embedding(o, dictionary),
                cross_attention=False,
                final_norm_affine=not o.no_affine_final_norm,
            ),
            cfg,
        )
        log_utilisation(model, o)
        return model

    @classmethod
    def build_embedding(cls, o: Options, dictionary):
        if not o.adaptive_input:
            return make_embedding(
                dictionary, o.decoder_input_dim, "--decoder-embed-path", o.decoder_embed_path
            )
        return AdaptiveInput(
            len(dictionary),
            dictionary.pad(),
            o.decoder_input_dim,
            o.adaptive_input_factor,
            o.decoder_embed_dim,
            cutoffs(o.adaptive_input_cutoff),
        )

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
                than a segment. Its EMA is recurrent, without truncation.
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
        """Starts to read ``batch`` texts piece by piece.

        Raises:
            ValueError: in training mode, and without chunks.
        """
        self.check_state()
        return TextState(self, batch)

    def restore(self, saved: Dict[str, Tensor]) -> TextState:
        """Restores what ``TextState.save`` returned.

        Raises:
            ValueError: if it belongs to another model; in training mode, and without chunks.
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


_ADAPTIVE = dict(
    decoder_layers=16,
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
_BIG = dict(
    decoder_layers=16,
    decoder_embed_dim=1024,
    decoder_hidden_dim=2048,
    decoder_ffn_embed_dim=2048,
    decoder_z_dim=256,
)

register_presets(
    MegaLanguageModel,
    MegaLanguageModelConfig,
    {
        "mega_lm_big": _BIG,
        "mega_lm_adaptive_base": dict(
            _ADAPTIVE,
            decoder_embed_dim=768,
            decoder_hidden_dim=1536,
            decoder_ffn_embed_dim=1536,
        ),
        "mega_lm_adaptive_big": {**_BIG, **_ADAPTIVE},
        "mega_lm_wiki103": {**_BIG, **_ADAPTIVE},
        "mega_lm_enwik8_base": dict(
            decoder_layers=12,
            decoder_embed_dim=512,
            decoder_hidden_dim=1024,
            decoder_ffn_embed_dim=1024,
        ),
        "mega_lm_enwik8_large": dict(
            decoder_layers=24,
            decoder_embed_dim=1024,
            decoder_hidden_dim=1536,
            decoder_ffn_embed_dim=1536,
            dropout=0.2,
            attention_dropout=0.1,
            hidden_dropout=0.1,
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
