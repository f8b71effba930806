"""The classifier of long sequences (Mega, sections "Long-Context Sequence Modeling" and "Raw
Speech Classification"), and its architectures."""

from typing import Dict, List

import torch
from fairseq.models import BaseFairseqModel
from omegaconf import DictConfig
from torch import Tensor, nn

from ..modules.activations import ACTIVATIONS
from ..modules.dropout import make_dropout
from ..modules.linear import INIT_STD
from .base import MegaCheckpointMixin
from .classification_presets import PRESETS
from .classifier_hub import ClassifierHub
from .config import ClassifierConfig
from .options import Options, check, classes, longest_sequence
from .registration import register_presets, task_name
from .sequence_encoder import RealNumberEmbedding, SequenceEncoder, SymbolEmbedding


class MegaClassifier(MegaCheckpointMixin, BaseFairseqModel):
    """Classifies one sequence, or two that are encoded separately.

    Args:
        embed_tokens: the embedding of symbols or real numbers.
    """

    table_options = "--chunk-size (with -1, --max-positions)"

    def __init__(self, o: Options, embed_tokens: nn.Module):
        super().__init__()
        # names fixed by published checkpoints
        self.encoder = nn.ModuleDict({"encoder": SequenceEncoder(o, embed_tokens)})
        self.activation = ACTIVATIONS[o.classifier_activation_fn]
        self.classifier = nn.ModuleList()
        width = o.classifier_in_dim
        for _ in range(o.classifier_layers):
            linear = nn.Linear(width, o.classifier_out_dim)
            self.classifier.append(nn.ModuleList([linear, make_dropout(o.dropout, self)]))
            width = o.classifier_out_dim
        self.sentence_projection_layer = nn.Linear(width, o.sentence_class_num, bias=False)
        for module in (*self.classifier.modules(), self.sentence_projection_layer):
            if isinstance(module, nn.Linear):
                if o.apply_bert_init:
                    nn.init.normal_(module.weight, std=INIT_STD)
                else:
                    nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self._max_positions = longest_sequence(o)

    @classmethod
    def build_model(cls, cfg: DictConfig, task) -> "MegaClassifier":
        """Builds the model for samples of ``task.documents`` sequences: of symbols if the task has
        a dictionary, else of real numbers."""
        if not hasattr(task, "documents"):
            raise ValueError(
                f"--task {task_name(task)} is not for this architecture: use --task lra-text, "
                "lra-image or speech_commands"
            )
        dictionary, o = task.source_dictionary, Options(cfg, ClassifierConfig)
        o.default("encoder_ffn_embed_dim", o.encoder_hidden_dim)
        o.default("classifier_in_dim", task.documents * o.encoder_embed_dim)
        o.default("classifier_out_dim", 2 * o.encoder_embed_dim)
        check(o, classes(o, "image" if dictionary is None else "text", task.documents))
        if dictionary is None:
            return cls(o, RealNumberEmbedding(o.encoder_embed_dim))
        return cls(o, SymbolEmbedding(len(dictionary), o.encoder_embed_dim, dictionary.pad()))

    def forward(self, sample: Dict) -> Dict[str, Tensor]:
        """
        Args:
            sample: a batch: ``net_input``, and for pairs ``net_input1``, each with ``src_tokens``
                ``(B, L)``, padded on the right, and ``src_lengths`` ``(B,)``.

        Returns:
            ``encoder_out``: scores ``(B, classes)``.
        """
        inputs = [sample[name] for name in ("net_input1", "net_input") if name in sample]
        encode = self.encoder["encoder"]
        # (B, D) for each; of a pair, the published code has the second first.
        x = torch.cat([encode(each["src_tokens"], each["src_lengths"]) for each in inputs], dim=1)
        for layer in self.classifier.children():
            linear, dropout = layer.children()
            x = self.activation(dropout(linear(x)))
        return {"encoder_out": self.sentence_projection_layer(x)}

    def get_normalized_probs(self, net_output: Dict, log_probs: bool, sample=None) -> Tensor:
        """(Log-)probabilities of the classes ``(B, classes)``, in float32."""
        return super().get_normalized_probs(net_output["encoder_out"], log_probs)

    @classmethod
    def hub_interface(cls, cfg: DictConfig, task, models: List[nn.Module]) -> ClassifierHub:
        return ClassifierHub(cfg, task, models)

    def max_positions(self) -> int:
        """The longest sequence, which only the ``simple`` bias limits."""
        return self._max_positions


register_presets(MegaClassifier, ClassifierConfig, PRESETS)
