"""The masked language model ``mega_masked_lm``, and classifiers that start from one.

It is for fairseq's own tasks and criteria ``masked_lm`` and ``sentence_prediction``.
"""

import logging
from typing import Dict, List, Optional, Tuple

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
    """``tanh(x W_d + b_d) W^T + b``: scores of the words at a position.

    Args:
        dim, words: dimension ``D`` of the model, and size ``V`` of the vocabulary.
        dense: with the hidden layer ``W_d``; else ``x W^T + b``.
        tied: ``W`` is the embeddings, which ``forward`` is given.
    """

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
    """A bidirectional Mega encoder (full attention or chunks) with a head for words, or, built for
    a task of sentences, with heads for classes in its place.

    Args:
        o: the options, the longest sequence set.
        encoder: the encoder.
        lm_head: the head for words; None for classes alone.
    """

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
        for words, whose weights nothing would train.

        Raises:
            ValueError: at an option out of range; names the option, its value and what to do.
        """
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
    ) -> Tuple[Tensor, Dict[str, Optional[List[Tensor]]]]:
        """
        Args:
            src_tokens: ``(B, L)``, padded on either side.
            src_lengths: not needed: padding is seen in the tokens.
            features_only: the encoder's output instead of scores.
            masked_tokens: ``(B, L)``, true where scores are asked for; None for everywhere.
            classification_head_name: scores of classes by this head, in place of words.
            return_all_hiddens: also return the layers' outputs.
            token_embeddings: ``(B, L, D)``, instead of those of the tokens.
            src_id: not needed: the task ``masked_lm`` puts it in batches.

        Returns:
            scores of words ``(B, L, V)`` or, of M masked tokens, ``(M, V)``; or of classes
            ``(B, classes)``; or features ``(B, L, D)``, zero at padding. And ``inner_states``:
            ``[(L, B, D), ...]``, from the embeddings on.

        Raises:
            ValueError: where the model has no such head.
        """
        features, states = self._encode(src_tokens, return_all_hiddens, token_embeddings)
        extra = {"inner_states": states}
        if classification_head_name is not None:
            # Of rows that are padded on the left, the first token is not at the first place.
            first = src_tokens.ne(self.encoder.padding_idx).long().argmax(dim=1)
            rows = torch.arange(len(first), device=first.device)
            return self._classes(features[rows, first], classification_head_name), extra
        return (features if features_only else self._words(features, masked_tokens)), extra

    def _classes(self, features: Tensor, head: str) -> Tensor:
        """``(B, D)`` of the first tokens to scores of classes ``(B, classes)``."""
        if head not in self.classification_heads:
            raise ValueError(
                f"no classification head {head!r}, but {sorted(self.classification_heads)}: "
                "register_classification_head adds one"
            )
        return self.classification_heads[head](features)

    def _words(self, features: Tensor, masked_tokens: Optional[Tensor]) -> Tensor:
        """``(B, L, D)`` to scores of words ``(B, L, V)``, or ``(M, V)`` of M masked tokens."""
        if self.lm_head is None:
            raise ValueError(
                "this model classifies and has no head for words: give classification_head_name, "
                "or features_only=True, or build it for the task masked_lm"
            )
        if masked_tokens is not None:
            features = features[masked_tokens]  # (M, D)
        return self.lm_head(features, self.encoder.embed_tokens.weight)

    def _encode(
        self, src_tokens: Tensor, states: bool, token_embeddings: Optional[Tensor]
    ) -> Tuple[Tensor, Optional[List[Tensor]]]:
        """Features ``(B, L, D)`` and, if asked for, the layers' outputs ``(L, B, D)``, at the
        places of the tokens: the encoder has moved left-padded ones to the left."""
        options = dict(return_all_hiddens=states, token_embeddings=token_embeddings)
        output = self.encoder(src_tokens, **options)
        hidden = output["encoder_states"] if states else None
        x = output["encoder_out"][0].transpose(0, 1)
        for shifts in output["left_padding"]:
            x = move_right(x, shifts)
            if hidden is not None:
                hidden = [
                    move_right(each.transpose(0, 1), shifts).transpose(0, 1) for each in hidden
                ]
        return x, hidden

    def register_classification_head(
        self, name: str, num_classes: int, inner_dim: Optional[int] = None, **unused
    ) -> None:
        """Adds a head of ``num_classes`` classes, in place of one of that name."""
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
        """The longest sequence: of the ``simple`` bias's table; without limit otherwise."""
        return self._max_positions

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        super().upgrade_state_dict_named(state_dict, name)
        self._fit_heads(state_dict)

    def _fit_heads(self, state_dict: Dict[str, Tensor]) -> None:
        """Heads that the model has not, or has with other shapes, are left out of a checkpoint;
        heads for classes that it lacks keep their present weights."""
        ours = {name: value for name, value in self.state_dict().items() if is_head(name)}
        for name in [name for name in state_dict if is_head(name)]:
            fits = name in ours and ours[name].shape == state_dict[name].shape
            if not fits and not (name.startswith("lm_head.") and self.lm_head is not None):
                logger.warning(f"{name} of the checkpoint is not used: the model has no such head")
                del state_dict[name]
        new = set(ours) - set(state_dict)
        if any(name.startswith("lm_head.") for name in new):
            raise ValueError(
                f"the checkpoint has no {', '.join(sorted(new))}: it is not of a masked language "
                "model with these options (--untie-lm-head, --no-lm-dense), but perhaps of a "
                "classifier"
            )
        for head in sorted({name.rpartition(".")[0].rpartition(".")[0] for name in new}):
            logger.info(f"{head} is not in the checkpoint: it keeps its initial weights")
        state_dict.update({name: ours[name] for name in new})


def is_head(name: str) -> bool:
    return name.startswith(("lm_head.", "classification_heads."))


_PRESET = dict(weight_init="xavier", normalize_before=True, rel_pos_bias="rotary")

# The largest is for texts of hundreds of millions of words; none of them is published.
register_presets(
    MegaMaskedLM,
    MaskedLMConfig,
    {
        "mega_masked_lm_small": dict(
            _PRESET,
            encoder_layers=4,
            encoder_embed_dim=256,
            encoder_hidden_dim=512,
            encoder_ffn_embed_dim=512,
            encoder_z_dim=64,
            truncation_length=0,
        ),
        "mega_masked_lm_base": dict(
            _PRESET,
            encoder_layers=12,
            encoder_embed_dim=768,
            encoder_hidden_dim=1536,
            encoder_ffn_embed_dim=1536,
            encoder_z_dim=256,
            attention_dropout=0.1,
            hidden_dropout=0.1,
        ),
    },
)
