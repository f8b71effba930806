"""The translation model ``mega`` and its presets."""

from typing import Optional

from fairseq.models import FairseqEncoderDecoderModel
from omegaconf import DictConfig
from torch import Tensor

from .base import MegaCheckpointMixin
from .config import MegaConfig
from .decoder import MegaDecoder
from .encoder import MegaEncoder
from .layers import make_embedding
from .options import Options, bands, check, complete_decoder_sizes, complete_positions, translation
from .registration import MASKED, TEXTS, check_task, register, register_presets
from .speed_metrics import log_utilisation


@register("mega", MegaConfig)
class MegaModel(MegaCheckpointMixin, FairseqEncoderDecoderModel):
    """Mega encoder and decoder, for fairseq's ``translation`` task."""

    @classmethod
    def build_model(cls, cfg: DictConfig, task) -> "MegaModel":
        """Builds the model for the dictionaries of ``task``."""
        check_task(task, TEXTS, MASKED)
        source, target = task.source_dictionary, task.target_dictionary
        o = Options(cfg, MegaConfig)
        complete_decoder_sizes(o)
        complete_positions(o, "max_source_positions", "max_target_positions")
        softmax = bands(o, "softmax", "decoder_embed_dim", len(target))
        check(o, translation(o, source, target), softmax)
        if o.share_all_embeddings:
            o["share_decoder_input_output_embed"] = o.adaptive_softmax_cutoff is None
        encoder_embedding = make_embedding(
            source, o.encoder_embed_dim, "--encoder-embed-path", o.encoder_embed_path
        )
        decoder_embedding = encoder_embedding
        if not o.share_all_embeddings:
            decoder_embedding = make_embedding(
                target, o.decoder_input_dim, "--decoder-embed-path", o.decoder_embed_path
            )
        alignments = learns_alignments(task)
        encoder = MegaEncoder(o, source, encoder_embedding)  # first: seeds decide initial weights
        decoder = MegaDecoder(
            o, target, decoder_embedding, cross_attention=True, attention_in_training=alignments
        )
        model = cls(encoder, decoder)
        model.added_positions = (o.required_seq_len_multiple or 1) - 1
        log_utilisation(model, o)
        return model

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor],
        prev_output_tokens: Tensor,
        token_embeddings: Optional[Tensor] = None,
        **kwargs,
    ):
        """``src_tokens (B, S)``, ``prev_output_tokens (B, T)`` to scores ``(B, T, V)``.

        ``token_embeddings (B, S, D)`` replace the source's; ``kwargs`` are those of
        ``MegaDecoder.forward``.
        """
        encoder_out = self.encoder(src_tokens, src_lengths, token_embeddings=token_embeddings)
        return self.decoder(prev_output_tokens, encoder_out=encoder_out, **kwargs)


def learns_alignments(task) -> bool:
    """Tells whether the criterion gets alignments, for which it needs the attention."""
    options = getattr(task, "cfg", None) or getattr(task, "args", None)  # args of older tasks
    return bool(getattr(options, "load_alignments", False))


_WMT = dict(attention_dropout=0.1, hidden_dropout=0.1, activation_dropout=0.1)

register_presets(
    MegaModel,
    MegaConfig,
    {
        "mega_wmt_en_de": _WMT,
        "mega_wmt_en_de_big": dict(
            _WMT,
            encoder_embed_dim=1024,
            encoder_hidden_dim=2048,
            encoder_ffn_embed_dim=2048,
            encoder_z_dim=256,
            dropout=0.3,
        ),
        # For small data and short trainings, which hardly leave the published initial weights.
        "mega_iwslt_de_en": dict(
            weight_init="residual",
            normalize_before=True,
            rel_pos_bias="rotary",
            truncation_length=0,
        ),
    },
)
