"""Small checkpoints: same bytes from the same seed, real folder contents, attention worth testing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy.tiny_qwen import SmallShape, write_small
from transformers import AutoProcessor

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.attention.capture import capture
from rvosbench.methods.models.lvlm.model import Lvlm

from .conftest import noise


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
def test_same_seed_same_bytes(checkpoints: dict[str, Path], tmp_path: Path, family: str) -> None:
    first = contents(checkpoints[family])
    assert contents(write_small(family, tmp_path / "again", seed=0)) == first
    other = contents(write_small(family, tmp_path / "other", seed=1))
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}


@pytest.mark.slow
def test_same_bytes_from_another_process(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    # Hash seeds differ between processes; neither the tokenizer's training nor the weights may depend on them.
    code = "import sys, pathlib; from toy.tiny_qwen import write_small; "
    code += "write_small('qwen2_5_vl', pathlib.Path(sys.argv[1]), 0)"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True, env=environment)
    assert contents(tmp_path / "there") == contents(checkpoints["qwen2_5_vl"])


def test_size_and_shape(model: Lvlm, checkpoints: dict[str, Path]) -> None:
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    assert 5e5 < parameters < 2e6
    text = model.model.config.text_config
    assert (text.hidden_size, text.num_attention_heads, text.num_key_value_heads) == (128, 4, 2)
    assert model.layers == 4
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        path = checkpoints[model.family] / name
        assert path.stat().st_mode & 0o444 == 0o444


def test_tokenizer_reads_any_text_and_the_special_tokens(model: Lvlm) -> None:
    tokenizer = model.tokenizer
    for text in ("Which dog? ‘naïve’ → 狗 \n", "  two  spaces  "):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    config = model.model.config
    ids = tokenizer("<|im_start|><|vision_start|><|image_pad|><|video_pad|><|vision_end|><|im_end|>").input_ids
    assert ids[1:5] == [
        config.vision_start_token_id,
        config.image_token_id,
        config.video_token_id,
        config.vision_end_token_id,
    ]
    assert ids[5] in model.model.generation_config.eos_token_id


def test_auto_classes_know_the_folder(checkpoints: dict[str, Path]) -> None:
    for family, name in (("qwen2_5_vl", "Qwen2_5_VLProcessor"), ("qwen2_vl", "Qwen2VLProcessor")):
        assert type(AutoProcessor.from_pretrained(checkpoints[family])).__name__ == name
        config = json.loads((checkpoints[family] / "config.json").read_text())
        assert config["model_type"] == family


@torch.no_grad()
def test_attention_is_far_from_uniform(model: Lvlm) -> None:
    prompted = model.clip(noise(4), "which one moves?")
    with capture(model.text_model, range(model.layers)) as captured:
        model.model.model(**prompted.inputs)
    for layer in captured.layers():
        query, key = layer.query_BALD[0], layer.key_BKLD[0].repeat_interleave(2, 0)
        last_AL = (query[:, -1:] @ key.transpose(1, 2) * layer.scale).softmax(-1)[:, 0]
        assert last_AL.amax(-1).mean() > 3 / prompted.length


def test_shape_is_a_parameter(tmp_path: Path) -> None:
    shape = SmallShape(layers=2, hidden=64, heads=2, kv_heads=1, patch=7, tied=True)
    config = json.loads((write_small("qwen2_5_vl", tmp_path, 0, shape=shape) / "config.json").read_text())
    assert config["vision_config"]["patch_size"] == 7
    assert config["text_config"]["rope_parameters"]["mrope_section"] == [4, 6, 6]
    assert config["tie_word_embeddings"] is True


def test_unknown_family(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="'qwen25_vl'") as caught:
        write_small("qwen25_vl", tmp_path, 0)
    assert "Did you mean 'qwen2_5_vl'?" in caught.value.fix
