"""Capture in the four families' text models: golden rows, eager attention, and what must not leak or pass unseen."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen2Config,
    Qwen2Model,
    Qwen2VLTextConfig,
    Qwen2VLTextModel,
)

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.attention.capture import capture
from rvosbench.methods.attention.recursion import LayerQK, rollout_rows
from rvosbench.methods.attention.spec import RolloutSpec

CLASSES: dict[str, tuple[Any, Any]] = {
    "qwen2_5_vl": (Qwen2_5_VLTextModel, Qwen2_5_VLTextConfig),
    "qwen2_vl": (Qwen2VLTextModel, Qwen2VLTextConfig),
    "llava_onevision": (Qwen2Model, Qwen2Config),
    "internvl": (Qwen2Model, Qwen2Config),
}


def golden_model(samples: Path, family: str, kernel: str = "sdpa") -> Any:
    folder = samples / "golden" / "decaf" / "rollout"
    model_class, config_class = CLASSES[family]
    settings = json.loads((folder / f"{family}_config.json").read_text())["text_config"]
    model = model_class._from_config(config_class(**settings), attn_implementation=kernel)
    weights = {name: value.float() for name, value in load_file(folder / f"{family}_weights.safetensors").items()}
    model.load_state_dict(weights, strict=True)
    return model.float().eval()


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("case", ["clip_mid", "clip_full", "batch2"])
@pytest.mark.parametrize("family", list(CLASSES))
def test_golden_rows(samples: Path, family: str, case: str, kernel: str) -> None:
    golden = np.load(samples / "golden" / "decaf" / "rollout" / f"{family}_{case}.npz")
    model = golden_model(samples, family, kernel)
    inputs = {"inputs_embeds": torch.from_numpy(golden["inputs_embeds"]), "use_cache": False}
    if golden["position_ids_passed"]:
        inputs["position_ids"] = torch.from_numpy(golden["position_ids"])
    visual_BL = torch.from_numpy(golden["visual_token_mask"])
    columns = "own" if family == "internvl" else "reference_span"
    start, end = int(golden["start_layer"]), int(golden["end_layer"])

    spec = RolloutSpec(start_layer=start, end_layer=end, visual_columns=columns)  # type: ignore[arg-type]
    with torch.no_grad(), capture(model, spec.layers(model.config.num_hidden_layers)) as captured:
        hidden = model(**inputs).last_hidden_state
    layers = captured.layers()

    if "last_hidden_state" in golden:
        np.testing.assert_allclose(hidden.numpy(), golden["last_hidden_state"], rtol=0, atol=1e-5)
    assert len(layers) == end - start
    rows = rollout_rows(layers, visual_BL, spec)
    np.testing.assert_allclose(rows.rows_BL.numpy(), golden["row"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(rows.rows_BL.numpy(), golden["row_f64"], rtol=0, atol=1e-6)
    raw_NBA = rows.head_weights_BNA.transpose(0, 1).numpy()
    np.testing.assert_allclose(raw_NBA, golden["head_weight_raw_f64"], rtol=0, atol=2e-6)
    relative = raw_NBA / raw_NBA.max(-1, keepdims=True)
    np.testing.assert_allclose(relative, golden["head_weight_f64"], rtol=0, atol=2e-6)
    for weights, name in (("max", "row_no_visual_mask"), ("mean", "row_plain_mean_f64")):
        other = RolloutSpec(start_layer=start, head_weights=weights)  # type: ignore[arg-type]
        row_BL = rollout_rows(layers, visual_BL, other).rows_BL.numpy()
        np.testing.assert_allclose(row_BL, golden[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.fixture
def small() -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    model: Any = Qwen2Model
    return model._from_config(config, attn_implementation="sdpa").eval()


IDS = torch.arange(24).view(1, 24) % 50


def attention_of(layer: LayerQK) -> torch.Tensor:
    query, key = layer.query_BALD, layer.key_BKLD
    scores = query @ key.repeat_interleave(query.shape[1] // key.shape[1], 1).transpose(2, 3) * layer.scale
    length = scores.shape[-1]
    return scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf).softmax(-1)


@torch.no_grad()
def test_captured_attention_is_the_models_own(small: Any) -> None:
    with capture(small, [0, 2]) as captured:
        hidden = small(IDS).last_hidden_state
    plain = small(IDS).last_hidden_state
    assert torch.equal(hidden, plain)
    small.set_attn_implementation("eager")
    eager = small(IDS, output_attentions=True).attentions
    for layer, index in zip(captured.layers(), (0, 2), strict=True):
        torch.testing.assert_close(attention_of(layer), eager[index], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_padding_masks_still_reach_the_kernel(small: Any) -> None:
    # An attention function registered without its mask function loses the mask in silence.
    ids = torch.cat([torch.zeros(1, 6, dtype=torch.long), IDS], 1)
    mask = torch.cat([torch.zeros(1, 6, dtype=torch.long), torch.ones_like(IDS)], 1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for kernel in ("sdpa", "eager"):
        small.set_attn_implementation(kernel)
        with capture(small, [1]):
            padded = small(ids, attention_mask=mask, position_ids=positions).last_hidden_state
        torch.testing.assert_close(padded[:, 6:], small(IDS).last_hidden_state, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_nothing_leaks_out_of_a_capture(small: Any) -> None:
    with capture(small, [0]) as first:
        small(IDS)
    kept = first.layers()[0].query_BALD.clone()
    small(IDS + 1)
    with capture(small, [0, 1, 2]) as second:
        small(IDS + 1)
    assert torch.equal(first.layers()[0].query_BALD, kept)
    assert not torch.equal(second.layers()[0].query_BALD, kept)
    assert small.config._attn_implementation == "sdpa"

    with pytest.raises(KeyError), capture(small, [0]):
        raise KeyError
    assert small.config._attn_implementation == "sdpa"
    with capture(small, [0]) as third:
        small(IDS)
    assert torch.equal(third.layers()[0].query_BALD, kept)


@torch.no_grad()
def test_another_model_inside_the_block_is_not_captured(small: Any) -> None:
    model: Any = Qwen2Model
    other = model._from_config(small.config, attn_implementation="sdpa").eval()
    with capture(small, [0]) as captured:
        other(IDS)
        small(IDS)
    assert torch.equal(captured.layers()[0].query_BALD, _first_query(small))


def _first_query(model: Any) -> torch.Tensor:
    with capture(model, [0]) as captured:
        model(IDS)
    return captured.layers()[0].query_BALD


@torch.no_grad()
def test_only_the_prefill_is_kept(small: Any) -> None:
    with capture(small, [0]) as captured:
        cache = small(IDS, use_cache=True).past_key_values
        small(IDS[:, :1], past_key_values=cache)
    assert captured.layers()[0].query_BALD.shape[2] == 24
    with capture(small, [0]), pytest.raises(RuntimeError, match="one forward pass"):
        small(IDS)
        small(IDS)
    with capture(small, [0]), pytest.raises(RuntimeError, match="whole sequence"):
        small(IDS[:, :3], past_key_values=cache)


@torch.no_grad()
def test_a_pass_over_earlier_keys_leaves_its_own_tokens(small: Any) -> None:
    with capture(small, [0, 2]) as captured:
        small(IDS)
    whole = captured.layers()
    with capture(small, [0, 2]) as captured:
        cache = small(IDS[:, :15], use_cache=True).past_key_values
    with capture(small, [0, 2], earlier=15) as captured:
        small(IDS[:, 15:], past_key_values=cache)
    for layer, expected in zip(captured.layers(), whole, strict=True):
        torch.testing.assert_close(layer.query_BALD, expected.query_BALD[:, :, 15:], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.key_BKLD, expected.key_BKLD[:, :, 15:], rtol=1e-4, atol=1e-5)
    with capture(small, [0], earlier=15), pytest.raises(RuntimeError, match="after 15 earlier keys, but 24 stand"):
        small(IDS[:, :2], past_key_values=cache)


@torch.no_grad()
def test_a_layer_that_was_not_captured_is_an_error(small: Any) -> None:
    with capture(small, [0, 1]) as captured:
        pass
    with pytest.raises(PrerequisiteError, match="2 of 2 layers of Qwen2Model was not captured"):
        captured.layers()

    class OwnAttention(torch.nn.Module):
        def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
            return hidden_states, None

    small.layers[1].self_attn = OwnAttention()
    with capture(small, [0, 1]) as captured:
        small(IDS)
    with pytest.raises(PrerequisiteError, match=r"1 of 2 layers.*first is layer 1"):
        captured.layers()


def test_captures_do_not_nest_or_overlap(small: Any) -> None:
    with capture(small, [0]):
        with pytest.raises(RuntimeError, match="already open"), capture(small, [0]):
            pass
        errors: list[Exception] = []

        def elsewhere() -> None:
            try:
                with capture(small, [0]):
                    pass
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert len(errors) == 1
    with capture(small, [0]):
        pass


def test_an_unknown_kernel_is_refused(small: Any) -> None:
    small.config._attn_implementation = "flex_attention"
    with pytest.raises(PrerequisiteError, match="'flex_attention' cannot be captured"), capture(small, [0]):
        pass
