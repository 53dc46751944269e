"""The small SAM2 that is trained: every part of SAM2.1, narrow, on 128-pixel frames."""

from __future__ import annotations

from typing import Any

from rvosbench.methods.models.sam2.checkpoints import Sam2Settings
from rvosbench.methods.models.sam2.model import build, post_processing
from toy.tiny_sam2 import redraw

BASE = "configs/sam2.1/sam2.1_hiera_t.yaml"
IMAGE_SIZE = 128
_WIDTH, _MEMORY_WIDTH = 128, 64
_GRID = f"[{IMAGE_SIZE // 16},{IMAGE_SIZE // 16}]"

OVERRIDES = (
    f"model.image_size={IMAGE_SIZE}",
    "model.image_encoder.trunk.embed_dim=32",
    "model.image_encoder.trunk.stages=[1,1,2,1]",
    # A block at the start of a stage must not attend globally: its windows would be empty.
    "model.image_encoder.trunk.global_att_blocks=[3]",
    "model.image_encoder.neck.backbone_channel_list=[256,128,64,32]",
    f"model.image_encoder.neck.d_model={_WIDTH}",
    f"model.image_encoder.neck.position_encoding.num_pos_feats={_WIDTH}",
    f"model.memory_attention.d_model={_WIDTH}",
    "model.memory_attention.num_layers=2",
    f"model.memory_attention.layer.d_model={_WIDTH}",
    "model.memory_attention.layer.dim_feedforward=512",
    "model.memory_attention.layer.dropout=0.0",
    f"model.memory_attention.layer.self_attention.embedding_dim={_WIDTH}",
    f"model.memory_attention.layer.self_attention.feat_sizes={_GRID}",
    "model.memory_attention.layer.self_attention.dropout=0.0",
    f"model.memory_attention.layer.cross_attention.embedding_dim={_WIDTH}",
    f"model.memory_attention.layer.cross_attention.feat_sizes={_GRID}",
    "model.memory_attention.layer.cross_attention.dropout=0.0",
    f"model.memory_encoder.in_dim={_WIDTH}",
    f"model.memory_encoder.out_dim={_MEMORY_WIDTH}",
    f"model.memory_encoder.mask_downsampler.embed_dim={_WIDTH}",
    f"model.memory_encoder.fuser.layer.dim={_WIDTH}",
    # The package starts these blocks at 1e-6, for runs of hundreds of thousands of steps.
    "model.memory_encoder.fuser.layer.layer_scale_init_value=0.1",
    "model.num_maskmem=5",
)


def build_trainable() -> Any:
    """The network with fresh weights from torch's global generator, with the post-processing it will run with.

    In evaluation mode, gradients on: it holds no dropout, and what is trained is then exactly what runs. Redrawn, it
    heeds its prompts from the start; with the package's initialisation the loss takes several times as long to fall.

    Raises:
        PrerequisiteError: the sam2 package is missing.
    """
    network = build(BASE, [*OVERRIDES, *post_processing(Sam2Settings())])
    redraw(network)
    return network.eval()
