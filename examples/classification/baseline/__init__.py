"""A Transformer to compare Mega with, of fairseq's own layers: what ``--user-dir`` imports.

It imports the plugin, whose tasks and criterion it is trained with, and registers the architecture
``transformer_classifier``, which is only here, not in the package.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict

import torch
import torch.nn.functional as F
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from fairseq.modules import PositionalEmbedding, TransformerSentenceEncoderLayer
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import fairseq_mega  # noqa: E402, F401 - registers the tasks and the criterion


@dataclass
class TransformerClassifierConfig(FairseqDataclass):
    encoder_layers: int = field(default=2, metadata={"help": "layers"})
    encoder_embed_dim: int = field(default=64, metadata={"help": "model dimension"})
    encoder_ffn_embed_dim: int = field(default=128, metadata={"help": "feed-forward dimension"})
    encoder_attention_heads: int = field(default=4, metadata={"help": "attention heads"})
    classifier_out_dim: int = field(default=128, metadata={"help": "width of the classifier"})
    dropout: float = field(default=0.0, metadata={"help": "dropout probability"})
    sentence_class_num: int = field(default=2, metadata={"help": "number of classes"})
    max_positions: int = field(default=1024, metadata={"help": "the longest sequence"})
    sen_rep_type: str = field(default="mp", metadata={"help": "only mp, the mean of positions"})


@register_model("transformer_classifier", dataclass=TransformerClassifierConfig)
class TransformerClassifier(BaseFairseqModel):
    """Classes of sequences of symbols or of numbers, with sinusoidal positions and attention over
    the whole sequence.

    Args:
        cfg: the options.
        symbols: how many symbols there are; 0 for numbers.
        pad: the symbol that fills up texts.
    """

    def __init__(self, cfg: TransformerClassifierConfig, symbols: int, pad: int):
        super().__init__()
        dim = cfg.encoder_embed_dim
        self.embed = nn.Embedding(symbols, dim, pad) if symbols else nn.Linear(1, dim)
        self.pad = pad if symbols else None
        self.positions = PositionalEmbedding(cfg.max_positions, dim, pad)
        self.layers = nn.ModuleList(
            TransformerSentenceEncoderLayer(
                embedding_dim=dim,
                ffn_embedding_dim=cfg.encoder_ffn_embed_dim,
                num_attention_heads=cfg.encoder_attention_heads,
                dropout=cfg.dropout,
                attention_dropout=cfg.dropout,
                activation_fn="gelu",
            )
            for _ in range(cfg.encoder_layers)
        )
        self.classifier = nn.Linear(dim, cfg.classifier_out_dim)
        self.sentence_projection_layer = nn.Linear(
            cfg.classifier_out_dim, cfg.sentence_class_num, bias=False
        )
        self._max_positions = cfg.max_positions

    @classmethod
    def build_model(cls, cfg: TransformerClassifierConfig, task) -> "TransformerClassifier":
        if cfg.sen_rep_type != "mp":
            raise ValueError(f"--sen-rep-type is {cfg.sen_rep_type}, but must be mp")
        if task.documents != 1:
            raise ValueError("the baseline reads single sequences, but the data has pairs")
        dictionary = task.source_dictionary
        return cls(cfg, 0 if dictionary is None else len(dictionary), task.pad)

    def forward(self, sample: Dict) -> Dict[str, Tensor]:
        """Scores ``(B, classes)`` of ``src_tokens`` ``(B, L)``, as the plugin returns them."""
        tokens = sample["net_input"]["src_tokens"]
        padding = (
            torch.zeros_like(tokens, dtype=torch.bool) if self.pad is None else tokens == self.pad
        )
        x = self.embed(tokens.unsqueeze(-1) if self.pad is None else tokens)  # (B, L, D)
        # Positions are counted where there is no padding: of numbers, everywhere.
        marks = padding.long() * self.positions.padding_idx + ~padding * (
            self.positions.padding_idx + 1
        )
        x = (x + self.positions(marks)).transpose(0, 1)  # (L, B, D)
        mask = padding if padding.any() else None
        for layer in self.layers:
            x, _ = layer(x, self_attn_padding_mask=mask)
        kept = (~padding).transpose(0, 1).unsqueeze(-1)  # (L, B, 1)
        x = (x * kept).sum(dim=0) / kept.sum(dim=0)
        return {"encoder_out": self.sentence_projection_layer(F.gelu(self.classifier(x)))}

    def get_normalized_probs(self, net_output: Dict, log_probs: bool, sample=None) -> Tensor:
        logits = net_output["encoder_out"].float()
        return F.log_softmax(logits, dim=-1) if log_probs else F.softmax(logits, dim=-1)

    def max_positions(self) -> int:
        return self._max_positions
