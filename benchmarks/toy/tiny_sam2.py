"""Writes checkpoint folders, and small random SAM2 models in the released architecture.

Weights are drawn with standard deviation 1/sqrt(fan in): with the package's own initialisation all objects get nearly
the same mask, whatever the prompt and the memory, and nothing about tracking can be tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from rvosbench.methods.models.sam2.checkpoints import CONFIG_FILE, WEIGHTS_FILE
from rvosbench.methods.models.sam2.model import build

SMALL_BASE = "configs/sam2.1/sam2.1_hiera_t.yaml"
# A block at the start of a stage must not attend globally: its windows would be empty.
SMALL_OVERRIDES = (
    "model.image_size=128",
    "model.image_encoder.trunk.embed_dim=16",
    "model.image_encoder.trunk.stages=[1,1,2,1]",
    "model.image_encoder.trunk.global_att_blocks=[3]",
    "model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    "model.memory_attention.num_layers=1",
    "model.memory_attention.layer.self_attention.feat_sizes=[8,8]",
    "model.memory_attention.layer.cross_attention.feat_sizes=[8,8]",
    "model.num_maskmem=3",
)


def write_folder(folder: Path, base: str, overrides: Sequence[str], state: Mapping[str, torch.Tensor]) -> Path:
    """Writes a checkpoint folder that ``checkpoints.resolve`` reads; the same input gives the same bytes.

    Args:
        folder: created where missing.
        base: configuration of the sam2 package.
        overrides: ``model.<key>=<value>``.
        state: the network's state dict.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = yaml.safe_dump({"base": base, "overrides": list(overrides)}, sort_keys=False)
    (folder / CONFIG_FILE).write_text(config, encoding="utf-8")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, folder / WEIGHTS_FILE)
    return folder


def write_small(folder: Path, seed: int, *, base: str = SMALL_BASE, overrides: Sequence[str] = ()) -> Path:
    """Writes a random SAM2 of 6.7 M parameters on 128-pixel frames; equal seeds give equal bytes.

    Args:
        folder: created where missing.
        seed: of the weights.
        base: ``configs/sam2/...`` for the 2.0 architecture.
        overrides: added to ``SMALL_OVERRIDES``.
    """
    everything = (*SMALL_OVERRIDES, *overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(base, everything)
        redraw(network)
    return write_folder(folder, base, everything, network.state_dict())


def redraw(network: Any) -> None:
    """Draws the matrices of a fresh SAM2 again from torch's global generator, in place; see the top of the file."""
    with torch.no_grad():
        for name, weight in sorted(network.named_parameters()):
            if weight.ndim >= 2:
                torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
            elif name == "sam_mask_decoder.pred_obj_score_head.layers.2.bias":
                weight.fill_(3.0)  # objects count as visible on most frames; a hidden one has no mask at all
