"""The kinds of backbones, by the names of their settings in config.json."""

from __future__ import annotations

from collections.abc import Mapping

from mlx_colbert.model.backbones.backbone import Backbone
from mlx_colbert.model.backbones.decoder import DecoderConfig
from mlx_colbert.model.backbones.encoder import EncoderConfig

__all__ = ["BACKBONES"]

BACKBONES: Mapping[str, type[Backbone]] = {"encoder": EncoderConfig, "decoder": DecoderConfig}
