"""The language model ``mega_lm`` and its presets."""

from fairseq.models import FairseqLanguageModel, register_model
from fairseq.modules import AdaptiveInput

from .base import MegaCheckpointMixin, complete_options, register_presets
from .config import (
    MegaLanguageModelConfig,
    check_cutoffs,
    check_decoder,
    complete_decoder_sizes,
    cutoffs,
)
from .decoder import MegaDecoder
from .layers import make_embedding


@register_model("mega_lm", dataclass=MegaLanguageModelConfig)
class MegaLanguageModel(MegaCheckpointMixin, FairseqLanguageModel):
    """A Mega decoder alone, for fairseq's ``language_modeling`` task."""

    @classmethod
    def build_model(cls, cfg: MegaLanguageModelConfig, task) -> "MegaLanguageModel":
        """Builds the model for the dictionary of ``task``.

        Raises:
            ValueError: at an option out of range; names the option, its value and what to do.
        """
        dictionary = task.source_dictionary
        cfg = complete_options(cfg, MegaLanguageModelConfig())
        if cfg.max_target_positions is None:
            cfg.max_target_positions = cfg.tokens_per_sample
        complete_decoder_sizes(cfg)
        check_decoder(cfg, cfg.adaptive_input)
        words = len(dictionary)
        check_cutoffs("--adaptive-input-cutoff", cfg.adaptive_input_cutoff, words)
        check_cutoffs("--adaptive-softmax-cutoff", cfg.adaptive_softmax_cutoff, words)
        return cls(
            MegaDecoder(
                cfg,
                task.target_dictionary,
                cls.build_embedding(cfg, dictionary),
                cross_attention=False,
                final_norm_affine=not cfg.no_affine_final_norm,
            )
        )

    @classmethod
    def build_embedding(cls, cfg: MegaLanguageModelConfig, dictionary):
        if not cfg.adaptive_input:
            return make_embedding(dictionary, cfg.decoder_input_dim, cfg.decoder_embed_path)
        return AdaptiveInput(
            len(dictionary),
            dictionary.pad(),
            cfg.decoder_input_dim,
            cfg.adaptive_input_factor,
            cfg.decoder_embed_dim,
            cutoffs(cfg.adaptive_input_cutoff),
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
    "mega_lm",
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
    },
)
