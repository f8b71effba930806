"""The masked language model ``mega_masked_lm``, and classifiers that start from one.

It is for fairseq's own tasks and criteria ``masked_lm`` and ``sentence_prediction``.
"""

import logging
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.models import BaseFairseqModel
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from fairseq.tasks.sentence_ranking import SentenceRankingTask
from torch import Tensor, nn

from ..modules.linear import make_linear
from .base import MegaCheckpointMixin
from .config import MaskedLMConfig
from .encoder import MegaEncoder
from .layers import make_embedding
from .options import Options, check, longest_sequence
from .padding import move_right
from .registration import SEQUENCES, TEXTS, check_task, register, register_presets, task_name

logger = logging.getLogger(__name__)


class MaskedLMHead(nn.Module):
    """``tanh(x W_d + b_d) W^T + b``: scores of the words at a position; without ``dense``,
    ``x W^T + b``. If ``tied``, ``W (V, D)`` is the embeddings."""

    def __init__(self, dim: int, words: int, dense: bool, tied: bool):
        super().__init__()
        self.dense = make_linear(dim, dim) if dense else None
        self.weight = None if tied else nn.Parameter(torch.empty(words, dim))
        self.bias = nn.Parameter(torch.zeros(words))
        if self.weight is not None:
            nn.init.normal_(self.weight, std=dim**-0.5)

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:
        """``x (..., D)`` and ``embeddings (V, D)`` to ``(..., V)``."""
        if self.dense is not None:
            x = torch.tanh(self.dense(x))
        return F.linear(x, embeddings if self.weight is None else self.weight, self.bias)


class ClassificationHead(nn.Module):
    """Scores of classes from the first token, where tasks put the symbol ``<s>``."""

    def __init__(self, dim: int, inner_dim: int, classes: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dense = make_linear(dim, inner_dim)
        self.out_proj = make_linear(inner_dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """The first token's features ``(B, D)`` to ``(B, classes)``."""
        x = torch.tanh(self.dense(self.dropout(x)))
        return self.out_proj(self.dropout(x))


@register("mega_masked_lm", MaskedLMConfig)
class MegaMaskedLM(MegaCheckpointMixin, BaseFairseqModel):
    """Bidirectional Mega encoder with a head for masked words or heads for sentence classes."""

    table_options = "--encoder-chunk-size (with -1, --max-positions)"
    text_tasks = {"masked_lm", "sentence_prediction"}

    def __init__(self, o: Options, encoder: MegaEncoder, lm_head: Optional[MaskedLMHead] = None):
        super().__init__()
        self.encoder = encoder
        self.lm_head = lm_head
        self.classification_heads = nn.ModuleDict()
        self.pooler_dropout = o.pooler_dropout
        self._max_positions = longest_sequence(o)

    @classmethod
    def build_model(cls, cfg: MaskedLMConfig, task) -> "MegaMaskedLM":
        """Builds the model for the dictionary of ``task``; for one of sentences, without a head
        for words, whose weights nothing would train."""
        check_task(task, SEQUENCES, TEXTS)
        o = Options(cfg, MaskedLMConfig)
        if not isinstance(task, SentenceRankingTask):  # whose positions are the model's
            o.default("max_source_positions", task.max_positions())
        # multilingual_masked_lm has it among its options alone
        tokens = getattr(getattr(task, "args", None), "tokens_per_sample", None)
        o.default("max_source_positions", tokens)
        if o.max_source_positions is None:
            raise ValueError(
                f"--task {task_name(task)} does not say how long its sequences may be: give "
                "--max-positions"
            )
        check(o)
        dictionary, dim = task.source_dictionary, o.encoder_embed_dim
        embedding = make_embedding(dictionary, dim, "--encoder-embed-path", o.encoder_embed_path)
        encoder = MegaEncoder(o, dictionary, embedding)
        if isinstance(task, (SentencePredictionTask, SentenceRankingTask)):
            return cls(o, encoder)
        head = MaskedLMHead(dim, len(dictionary), not o.no_lm_dense, not o.untie_lm_head)
        return cls(o, encoder, head)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        features_only: bool = False,
        masked_tokens: Optional[Tensor] = None,
        classification_head_name: Optional[str] = None,
        return_all_hiddens: bool = False,
        token_embeddings: Optional[Tensor] = None,
        src_id: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Dict[str, List[Tensor]]]:
        """
        Args:
            src_tokens: ``(B, L)``, padded on either side.
            src_lengths: ignored: the tokens show the padding.
            features_only: return the encoder's output instead of scores.
            masked_tokens: ``(B, L)``, true where scores are asked for; None for everywhere.
            classification_head_name: return scores of classes by this head instead of words.
            return_all_hiddens: also return the layers' outputs.
            token_embeddings: ``(B, L, D)``, instead of those of the tokens.
            src_id: ignored: the task ``masked_lm`` puts it in batches.

        Returns:
            scores of words ``(B, L, V)`` or, of M masked tokens, ``(M, V)``; or of classes
            ``(B, classes)``; or features ``(B, L, D)``, zero at padding. And ``inner_states``:
            ``[(L, B, D), ...]``, from the embeddings on.

        Raises:
            ValueError: if the model has no such head.
        """
        output = self.encoder(
            src_tokens, return_all_hiddens=return_all_hiddens, token_embeddings=token_embeddings
        )
        found = [x.transpose(0, 1) for x in (*output["encoder_out"], *output["encoder_states"])]
        for shifts in output["left_padding"]:  # the encoder has moved left-padded tokens
            found = [move_right(x, shifts) for x in found]
        features, *states = found  # (B, L, D)
        extra = {"inner_states": [x.transpose(0, 1) for x in states]}

        head = classification_head_name
        if head is not None:
            if head not in self.classification_heads:
                raise ValueError(
                    f"no classification head {head!r}, but {sorted(self.classification_heads)}: "
                    "register_classification_head adds one"
                )
            first = src_tokens.ne(self.encoder.padding_idx).long().argmax(dim=1)
            rows = torch.arange(len(first), device=first.device)
            return self.classification_heads[head](features[rows, first]), extra
        if features_only:
            return features, extra
        if self.lm_head is None:
            raise ValueError(
                "this model classifies and has no head for words: give classification_head_name, "
                "or features_only=True, or build it for the task masked_lm"
            )
        if masked_tokens is not None:
            features = features[masked_tokens]  # (M, D)
        return self.lm_head(features, self.encoder.embed_tokens.weight), extra

    def register_classification_head(
        self, name: str, num_classes: int, inner_dim: Optional[int] = None, **unused
    ) -> None:
        """Adds a head of ``num_classes`` classes, which replaces one of that name."""
        dim = self.encoder.embed_tokens.embedding_dim
        if name in self.classification_heads:
            logger.warning(f"the classification head {name!r} is replaced by a new one")
        self.classification_heads[name] = ClassificationHead(
            dim, inner_dim or dim, num_classes, self.pooler_dropout
        )

    def get_normalized_probs(self, net_output, log_probs: bool, sample=None) -> Tensor:
        """(Log-)probabilities of words or classes, in float32."""
        return super().get_normalized_probs(net_output[0], log_probs)

    def max_positions(self) -> int:
        """The longest sequence, which only the ``simple`` bias limits."""
        return self._max_positions

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        """Leaves out a checkpoint's heads that the model does not have, or has with other shapes;
        heads for classes that the checkpoint lacks keep their present weights."""
        super().upgrade_state_dict_named(state_dict, name)
        ours = {name: value for name, value in self.state_dict().items() if is_head(name)}
        for name in [name for name in state_dict if is_head(name)]:
            fits = name in ours and ours[name].shape == state_dict[name].shape
            if not fits and not (name.startswith("lm_head.") and self.lm_head is not None):
                logger.warning(f"{name} of the checkpoint is not used: the model has no such head")
                del state_dict[name]
        new = set(ours) - set(state_dict)
        if any(name.startswith("lm_head.") for name in new):
            raise ValueError(
                f"the checkpoint has no {', '.join(sorted(new))}: it is of a classifier, or of a "
                "masked language model with other --untie-lm-head or --no-lm-dense"
            )
        for head in sorted({name.rpartition(".")[0].rpartition(".")[0] for name in new}):
            logger.info(f"{head} is not in the checkpoint: it keeps its initial weights")
        state_dict.update({name: ours[name] for name in new})


def is_head(name: str) -> bool:
    return name.startswith(("lm_head.", "classification_heads."))


def _preset(layers: int, dim: int, z: int, **others) -> Dict[str, Any]:
    return dict(
        weight_init="xavier",
        normalize_before=True,
        rel_pos_bias="rotary",
        encoder_layers=layers,
        encoder_embed_dim=dim,
        encoder_hidden_dim=2 * dim,
        encoder_ffn_embed_dim=2 * dim,
        encoder_z_dim=z,
        **others,
    )


# None of them is published; the larger one is for texts of hundreds of millions of words.
register_presets(
    MegaMaskedLM,
    MaskedLMConfig,
    {
        "mega_masked_lm_small": _preset(4, 256, 64, truncation_length=0),
        "mega_masked_lm_base": _preset(12, 768, 256, attention_dropout=0.1, hidden_dropout=0.1),
    },
)
