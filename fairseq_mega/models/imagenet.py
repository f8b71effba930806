"""The model of images (Mega, section "Image Classification": ImageNet), and its architectures.

``mega_image`` is another model's name: of the Long Range Arena's images, a pixel a position.
"""

from typing import Dict

import torch
import torch.nn.functional as F
from fairseq.models import BaseFairseqModel
from omegaconf import DictConfig
from torch import Tensor, nn

from ..modules import SequenceNorm
from ..modules.dropout import make_dropout
from ..modules.linear import INIT_STD, make_linear
from ..modules.stochastic_depth import drop_paths_
from .base import MegaCheckpointMixin
from .config import ImageNetConfig
from .layers import EncoderLayer, make_layers
from .options import Options, check, patches
from .registration import register_presets, task_name


class MegaImageNet(MegaCheckpointMixin, BaseFairseqModel):
    """Patches with learned positions, pre-norm layers, and the mean of all positions."""

    table_options = "--image-size and --patch-size"

    def __init__(self, cfg: DictConfig, classes: int):
        super().__init__()
        o = Options(cfg, ImageNetConfig)
        check(o, patches(o))
        dim, size = o.encoder_embed_dim, o.patch_size
        positions = (o.image_size // size) ** 2
        o.fix(max_source_positions=positions, normalize_before=True)
        # names fixed by published checkpoints
        projection = nn.Conv2d(3, dim, kernel_size=size, stride=size)
        nn.init.normal_(projection.weight, std=INIT_STD)
        self.patch_embed = nn.ModuleDict({"pemb": nn.ModuleDict({"proj": projection})})
        self.pos_embed = nn.Parameter(torch.empty(1, positions, dim))
        nn.init.normal_(self.pos_embed, std=INIT_STD)
        self.dropout = make_dropout(o.dropout, self, o.feature_dropout)
        layers = [EncoderLayer(o) for _ in range(o.encoder_layers)]
        rates = torch.linspace(0, o.drop_path, len(layers), device="cpu").tolist()
        for layer, rate in zip(layers, rates):
            drop_paths_(layer.mega_layer, rate)
            if layer.nffn is not None:
                drop_paths_(layer.nffn, rate)
        self.blocks = make_layers(layers, o)
        self.final_norm = SequenceNorm(o.normalization_type, dim)
        self.out_proj = nn.ModuleDict({"fc": make_linear(dim, dim)})
        self.head = make_linear(dim, classes)

    @classmethod
    def build_model(cls, cfg: DictConfig, task) -> "MegaImageNet":
        """Builds the model for the classes of ``task``."""
        if cfg.image_size is None:
            raise ValueError(
                f"--task {task_name(task)} is not for this architecture: use --task image_folder"
            )
        return cls(cfg, len(task.class_names))

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, image_size, image_size)`` to scores ``(B, classes)``."""
        x = self.patch_embed.get_submodule("pemb.proj")(images)  # (B, D, rows, columns)
        x = x.flatten(2).transpose(1, 2)  # (B, L, D)
        if x.shape[1:] != self.pos_embed.shape[1:]:
            raise ValueError(
                f"images of {tuple(images.shape[2:])} pixels have {x.size(1)} patches, but the "
                f"model has {self.pos_embed.size(1)}: give images of its --image-size"
            )
        x = self.dropout(x + self.pos_embed)
        for layer in self.blocks:
            x = layer(x, None)
        x = F.silu(self.out_proj["fc"](self.final_norm(x)))
        return self.head(x.mean(dim=1))

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        super().upgrade_state_dict_named(state_dict, name)
        found = state_dict.get("head.weight", self.head.weight).size(0)
        if found != self.head.out_features:
            raise ValueError(
                f"the checkpoint has {found} classes, but the data has folders of "
                f"{self.head.out_features}: give data of the same classes"
            )


_PUBLISHED = dict(attention_activation_fn="laplace", dropout=0.0, truncation_length=0)

register_presets(
    MegaImageNet,
    ImageNetConfig,
    {
        "mega_base_patch16_224": _PUBLISHED,
        "mega_tiny_patch16_224": dict(
            _PUBLISHED,
            encoder_embed_dim=192,
            encoder_hidden_dim=384,
            encoder_ffn_embed_dim=384,
            encoder_z_dim=64,
        ),
    },
)
