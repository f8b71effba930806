"""The model of images (Mega, section "Image Classification": ImageNet), and its architectures.

``mega_image`` is another model's name: of the Long Range Arena's images, a pixel a position.
"""

from typing import Any, Dict

import torch
import torch.nn.functional as F
from fairseq.models import BaseFairseqModel
from omegaconf import DictConfig
from torch import Tensor, nn

from ..modules import SequenceNorm
from ..modules.dropout import make_dropout
from ..modules.linear import INIT_STD, make_linear
from ..modules.stochastic_depth import StochasticFeedForwardNetwork, StochasticGatedAttention
from .base import MegaCheckpointMixin
from .config import longest_memory
from .imagenet_config import PRESETS, ImageNetConfig, check_imagenet
from .layers import Layer, make_layers
from .registration import register_presets, task_name


class ImageLayer(Layer):
    """Bidirectional Mega layer and feed-forward, pre-norm, of stochastic depth."""

    def __init__(self, cfg: ImageNetConfig, positions: int, drop_path: float):
        super().__init__()
        common: Dict[str, Any] = dict(
            drop_path=drop_path,
            embed_dim=cfg.encoder_embed_dim,
            dropout=cfg.dropout,
            activation=str(cfg.activation_fn),
            norm_type=str(cfg.normalization_type),
            prenorm=True,
            feature_dropout=cfg.feature_dropout,
        )
        self.mega_layer = StochasticGatedAttention(
            zdim=cfg.encoder_z_dim,
            hdim=cfg.encoder_hidden_dim,
            ndim=cfg.encoder_n_dim,
            attention_dropout=cfg.attention_dropout,
            hidden_dropout=cfg.hidden_dropout,
            chunk_size=cfg.encoder_chunk_size,
            truncation=cfg.truncation_length,
            longest_memory=longest_memory(cfg),
            rel_pos_bias=str(cfg.rel_pos_bias),
            max_positions=positions,
            attention_activation=str(cfg.attention_activation_fn),
            bidirectional=True,
            **common,
        )
        self.nffn = StochasticFeedForwardNetwork(
            ffn_hidden_dim=cfg.encoder_ffn_embed_dim,
            hidden_dropout=cfg.activation_dropout,
            **common,
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L, D)`` to ``(B, L, D)``."""
        x, _ = self.mega_layer(x)
        return self.nffn(x)


class MegaImageNet(MegaCheckpointMixin, BaseFairseqModel):
    """Patches with learned positions, pre-norm layers, and the mean of all positions; modules have
    the names of the published checkpoints.

    Args:
        cfg: the options.
        classes: how many there are.
    """

    table_options = "--image-size and --patch-size"

    def __init__(self, cfg: DictConfig, classes: int):
        super().__init__()
        dim, size = cfg.encoder_embed_dim, cfg.patch_size
        positions = (cfg.image_size // size) ** 2
        patches = nn.Conv2d(3, dim, kernel_size=size, stride=size)
        nn.init.normal_(patches.weight, std=INIT_STD)
        self.patch_embed = nn.ModuleDict({"pemb": nn.ModuleDict({"proj": patches})})
        self.pos_embed = nn.Parameter(torch.empty(1, positions, dim))
        nn.init.normal_(self.pos_embed, std=INIT_STD)
        self.dropout = make_dropout(cfg.dropout, self, cfg.feature_dropout)
        rates = torch.linspace(0, cfg.drop_path, cfg.encoder_layers, device="cpu").tolist()
        self.blocks = make_layers([ImageLayer(cfg, positions, rate) for rate in rates], cfg)
        self.final_norm = SequenceNorm(str(cfg.normalization_type), dim)
        self.out_proj = nn.ModuleDict({"fc": make_linear(dim, dim)})
        self.head = make_linear(dim, classes)

    @classmethod
    def build_model(cls, cfg: ImageNetConfig, task) -> "MegaImageNet":
        """Builds the model for the classes of ``task``.

        Raises:
            ValueError: at an option out of range; names the option, its value and what to do.
        """
        if cfg.image_size is None:
            raise ValueError(
                f"--task {task_name(task)} is not for this architecture: use --task image_folder"
            )
        check_imagenet(cfg)
        return cls(cfg, len(task.class_names))

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, image_size, image_size)`` to scores ``(B, classes)``."""
        x = self.patch_embed.get_submodule("pemb.proj")(images)  # (B, D, rows, columns)
        x = x.flatten(2).transpose(1, 2)  # (B, L, D)
        if x.shape[1:] != self.pos_embed.shape[1:]:
            raise ValueError(
                f"images of {tuple(images.shape[2:])} pixels have {x.size(1)} patches, but the "
                f"model has {self.pos_embed.size(1)}: see --image-size"
            )
        x = self.dropout(x + self.pos_embed)
        for layer in self.blocks:
            x = layer(x)
        x = F.silu(self.out_proj["fc"](self.final_norm(x)))
        return self.head(x.mean(dim=1))

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        super().upgrade_state_dict_named(state_dict, name)
        found = state_dict.get("head.weight", self.head.weight).size(0)
        if found != self.head.out_features:
            raise ValueError(
                f"the checkpoint is of {found} classes, but the data has folders of "
                f"{self.head.out_features}: give data of the same classes"
            )


register_presets(MegaImageNet, ImageNetConfig, PRESETS)
