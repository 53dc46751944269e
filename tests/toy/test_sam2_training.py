"""Training a small SAM2: what it draws, that it learns, what it writes, and that the methods' loader reads it."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("sam2")

from torch.nn.functional import interpolate  # noqa: E402
from toy.sam2 import bank as bank_module  # noqa: E402
from toy.sam2 import loop  # noqa: E402
from toy.sam2.architecture import IMAGE_SIZE, build_trainable  # noqa: E402
from toy.sam2.bank import Bank, Batch, Windows  # noqa: E402
from toy.sam2.card import Card, add_quality, read_card  # noqa: E402
from toy.sam2.losses import losses  # noqa: E402
from toy.sam2.rendering import RenderedClip, render_clip, rendered_clips  # noqa: E402
from toy.sam2.unroll import Steps, unroll  # noqa: E402
from toy.tiny_sam2 import write_small  # noqa: E402

from rvosbench.harness.data.synthetic import make_clip  # noqa: E402
from rvosbench.harness.errors import PrerequisiteError  # noqa: E402
from rvosbench.methods.models.sam2.checkpoints import Sam2Settings  # noqa: E402
from rvosbench.methods.models.sam2.frames import preprocess  # noqa: E402
from rvosbench.methods.models.sam2.model import load  # noqa: E402
from rvosbench.methods.models.sam2.prompts import Masks  # noqa: E402
from rvosbench.methods.models.sam2.tracking import Sam2Video  # noqa: E402

CARD = Card(0, 0, 1, "cpu", 24, 1e-3)


@pytest.fixture(scope="module")
def clips() -> list[RenderedClip]:
    return [render_clip(0, "train", IMAGE_SIZE, index) for index in range(6)]


def filled(clips: list[RenderedClip]) -> Bank:
    bank = Bank(iter(clips), len(clips), IMAGE_SIZE, torch.device("cpu"))
    bank.fill(len(clips))
    return bank


def plan(folder: Path, **changes: Any) -> loop.Plan:
    return replace(loop.Plan(folder, steps=4, clips=6, batch=12, device="cpu"), **changes)


def test_the_pool_renders_what_the_network_is_shown(clips: list[RenderedClip]) -> None:
    pooled = list(rendered_clips(0, "train", IMAGE_SIZE, 2, workers=1))
    assert [clip.digest() for clip in pooled] == [clip.digest() for clip in clips[:2]]
    bank = filled(clips)
    clip = make_clip(0, "train", 1)
    first = len(clips[0].frames_TSS3)
    windows = Windows(np.array([[first + 2, first + 1]]), np.array([[2, 0]]), prompt=1)
    batch = bank.gather(windows, torch.Generator().manual_seed(0))
    shown = list(clip.images())
    expected = torch.stack([preprocess(shown[frame], IMAGE_SIZE) for frame in (2, 1)])
    torch.testing.assert_close(batch.images_KT3SS[0], expected, rtol=0, atol=1e-6)
    for t, frame in enumerate((2, 1)):
        for b, target in enumerate((2, 0)):
            mask = torch.from_numpy(clip.ids_THW[frame] == target)[None, None].float()
            fraction = interpolate(mask, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)[0, 0]
            clear = (fraction - 0.5).abs() > 0.26
            assert clear.float().mean() > 0.9
            assert torch.equal(batch.masks_TBSS[t, b][clear], (fraction > 0.5)[clear])


@pytest.mark.parametrize("length", [1, 4, 8])
def test_windows_are_evenly_spaced_frames_of_one_clip_with_the_object_in_sight(
    length: int, clips: list[RenderedClip]
) -> None:
    bank = filled(clips)
    owner = np.repeat(np.arange(6), [len(clip.ids_TSS) for clip in clips])
    ids = np.concatenate([clip.ids_TSS for clip in clips])
    rng = np.random.default_rng(5)
    steps: set[int] = set()
    prompts: set[int] = set()
    objects: set[int] = set()
    for _ in range(12):
        windows = bank.draw(rng, 5, 8, 3, length)
        assert windows.frame_KT.shape == (8, length)
        assert windows.object_KM.shape == (8, 3)
        prompts.add(windows.prompt)
        for frame_T, object_M in zip(windows.frame_KT, windows.object_KM, strict=True):
            assert len(set(owner[frame_T])) == 1
            assert owner[frame_T[0]] < 5
            assert len(set(np.diff(frame_T))) <= 1
            steps.update(int(step) for step in np.diff(frame_T))
            prompted = ids[frame_T[windows.prompt]]
            for target in object_M:
                objects.add(int(target))
                assert target == 0 or (prompted == target).sum() >= bank_module.LEAST_AREA
        batch = bank.gather(windows, torch.Generator().manual_seed(0))
        column, row = batch.click_B2.long().T
        assert batch.masks_TBSS[windows.prompt][torch.arange(24), row, column].all()
    assert objects >= {0, 1, 2, 3}
    if length > 1:
        assert min(steps) < 0 < max(steps)
        assert {abs(step) for step in steps} >= {1, 2}
        assert prompts == set(range(length)) or len(prompts) > 4


def test_a_clip_without_anything_to_prompt_is_refused(clips: list[RenderedClip]) -> None:
    with pytest.raises(ValueError, match="no window of 41 frames"):
        filled(clips).draw(np.random.default_rng(0), 6, 2, 1, 41)
    with pytest.raises(ValueError, match="the source gave 6"):
        Bank(iter(clips), 9, IMAGE_SIZE, torch.device("cpu")).fill(7)


def test_the_unroll_is_what_the_methods_tracker_computes(clips: list[RenderedClip], tmp_path: Path) -> None:
    """The same weights give the same logits in training as behind ``Segmenter``, but for memories in bfloat16."""
    CARD.write(tmp_path, random_network().state_dict())
    model = load(Sam2Settings(checkpoint=str(tmp_path), device="cpu"))
    bank = filled(clips)
    # Not before the memory is full (a prompt and four frames), with the prompt in the middle.
    windows = Windows(np.arange(9)[None], np.array([[1, 2]]), prompt=3)
    batch = bank.gather(windows, torch.Generator().manual_seed(1))
    with torch.no_grad():
        steps = unroll(model.network, batch, torch.zeros(2, dtype=torch.bool), video_length=9)
    assert steps.frames == (3, 4, 5, 6, 7, 8, 2, 1, 0)

    pixels = [np.asarray(frame) for frame in clips[0].frames_TSS3[:9]]
    video = Sam2Video(model, pixels)
    [clicked] = video.logits_from_points(3, (batch.click_B2 / IMAGE_SIZE).numpy())
    found, _ = chosen(steps, 0)
    torch.testing.assert_close(found, clicked.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(steps.iou_RB3[0].max(dim=1).values, clicked.predicted_iou, rtol=0, atol=1e-5)
    tracked = {p: t for p, _, t in video.propagate_logits(range(9), Masks(3, batch.masks_TBSS[3].numpy()))}
    for record, position in enumerate(steps.frames[1:], start=1):
        found, shown = chosen(steps, record)
        torch.testing.assert_close(found[shown], tracked[position][shown], rtol=0, atol=0.05)
        assert (tracked[position][~shown] < -100).all()
    assert max(float(tracked[p].std()) for p in (0, 8)) > 0.2


def random_network() -> Any:
    torch.manual_seed(0)
    return build_trainable()


def chosen(steps: Steps, record: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits the package would pick, (B, S, S), and whether it takes each object for visible."""
    best = steps.iou_RB3[record].argmax(dim=1)
    low = steps.logits_RB3ss[record][torch.arange(len(best)), best][:, None]
    full = interpolate(low, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)[:, 0]
    return full, steps.score_RB[record] > 0


def test_losses_of_hand_made_records() -> None:
    """One object, three frames: clicked perfectly, tracked with half of it, then gone."""
    size = 16
    masks = torch.zeros(3, 1, size, size, dtype=torch.bool)
    masks[:2, 0, :8] = True
    logits = torch.full((3, 1, 3, size, size), -50.0)
    logits[0, 0, 1, :8] = 50.0
    logits[1, 0, 2, :4] = 50.0
    ious = torch.tensor([[[0.2, 0.9, 0.1]], [[0.0, 0.0, 0.5]], [[0.7, 0.7, 0.7]]])
    found = losses(Steps(logits, ious, torch.tensor([[50.0], [50.0], [-50.0]]), (0, 1, 2)), masks)
    # 64 wrong pixels of 256 at a logit of -50; Dice of 64 shared of 64 + 128.
    half = 5.0 * 50 * 64 / 256 + 1 - (2 * 64 + 1) / (64 + 128 + 1)
    torch.testing.assert_close(found.mask, torch.tensor(half / 2), rtol=1e-5, atol=1e-5)
    error = ((0.2 + 0.1 + 0.1) / 3 + 0.0 / 3) / 2
    torch.testing.assert_close(found.iou, torch.tensor(error), rtol=1e-5, atol=1e-6)
    assert float(found.presence) < 1e-6
    assert (float(found.click_iou), float(found.track_iou), float(found.presence_accuracy)) == (1.0, 0.5, 1.0)
    # Taken for hidden, the tracked frame counts nothing.
    hidden = losses(Steps(logits, ious, torch.tensor([[50.0], [-50.0], [50.0]]), (0, 1, 2)), masks)
    assert (float(hidden.track_iou), float(hidden.presence_accuracy)) == (0.0, pytest.approx(1 / 3))
    assert float(hidden.presence) == pytest.approx(100 / 3, rel=1e-5)


def test_every_part_of_the_network_gets_a_gradient(clips: list[RenderedClip]) -> None:
    network = random_network()
    batch = filled(clips).gather(
        Windows(np.array([[0, 2, 4, 6]]), np.array([[1, 2]]), 1), torch.Generator().manual_seed(0)
    )
    loss = losses(unroll(network, batch, torch.tensor([True, False]), 12), batch.masks_TBSS).total
    loss.backward()
    idle = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    busy = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"image_encoder", "memory_attention", "memory_encoder", "sam_mask_decoder", "obj_ptr_proj",
            "maskmem_tpos_enc", "mask_downsample", "obj_ptr_tpos_proj", "no_mem_embed"} <= busy  # fmt: skip
    # Without a hidden object there is nothing to learn of one.
    assert idle <= {"no_obj_ptr", "no_obj_embed_spatial", "no_mem_pos_enc", "sam_prompt_encoder", "sam_mask_decoder"}


def test_training_lowers_the_loss_of_a_fixed_batch(
    clips: list[RenderedClip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = loop.Trainer(plan(tmp_path), iter(clips))
    trainer._stage = 1
    fixed = trainer._batch(0.0)
    assert fixed.images_KT3SS.shape[1] == 3
    monkeypatch.setattr(trainer, "_batch", lambda fraction: fixed)
    monkeypatch.setattr(loop, "WARM_UP_STEPS", 4)
    trainer.step(0.0)
    trainer.measures()
    first = trainer.latest
    for _ in range(14):
        trainer.step(0.0)
        trainer.measures()
    assert trainer.latest["loss"] < 0.7 * first["loss"]
    assert trainer.latest["mask"] < 0.75 * first["mask"]


def test_equal_seeds_give_equal_runs(clips: list[RenderedClip], tmp_path: Path) -> None:
    first, again, other = (loop.Trainer(plan(tmp_path, seed=seed), iter(clips)) for seed in (1, 1, 2))
    for trainer in (first, again, other):
        # The second share is past the end of the first stage of the curriculum.
        for fraction in (0.0, 0.5):
            trainer.step(fraction)
        trainer.measures()
    assert first.latest == again.latest != other.latest


def test_the_curriculum_moves_on_when_a_measure_is_good_or_time_is_up(
    clips: list[RenderedClip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = loop.Trainer(plan(tmp_path), iter(clips))
    stages = (loop.Stage((1,), 0.5, "click_iou", 0.8), loop.Stage((2,), 0.7), loop.Stage((3,)))
    monkeypatch.setattr(loop, "CURRICULUM", stages)

    def length(fraction: float) -> int:
        return trainer._batch(fraction).images_KT3SS.shape[1]

    assert [length(0.0), length(0.4)] == [1, 1]
    trainer.latest = {"click_iou": 0.81}
    assert [length(0.4), length(0.69), length(0.7), length(0.99)] == [2, 2, 3, 3]


def test_the_average_follows_what_a_late_stage_starts_to_train(
    clips: list[RenderedClip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory weights first move after three quarters of a run; at its end nothing is left of what they were before."""
    trainer = loop.Trainer(plan(tmp_path), iter(clips))
    network = torch.nn.Linear(1, 1, bias=False)
    averaged = torch.nn.Linear(1, 1, bias=False).requires_grad_(False)
    expected: float | None = None
    for step in range(400):
        value = -5.0 if step < 300 else 1.0 + step / 400
        network.weight.data.fill_(value)
        if expected is None:
            expected = value
            averaged.weight.fill_(100.0)
        newest = 21 / (step + 21)
        expected = (1 - newest) * expected + newest * value
        monkeypatch.setattr(trainer, "network", network)
        monkeypatch.setattr(trainer, "_average", averaged)
        monkeypatch.setattr(trainer, "steps", step)
        trainer.average()
    assert float(averaged.weight) == pytest.approx(expected, rel=1e-4)
    # The plain mean of the last twentieth is 1.974; the average lags by a twenty-first of the run.
    assert float(averaged.weight) == pytest.approx(1.95, abs=0.04)


@pytest.mark.slow
def test_a_run_that_is_terminated_leaves_its_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "sam2"
    command = [
        sys.executable, "-m", "toy.sam2", str(folder), "--steps", "100000",
        "--clips", "2", "--batch", "3", "--workers", "1", "--device", "cpu",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "training starts\n"
        run.send_signal(signal.SIGTERM)
        run.stdout.read()
    assert run.returncode == 128 + signal.SIGTERM
    card = read_card(folder)
    assert card["complete"] is False
    assert card["steps"] >= 1
    assert set(card["averaged"]) >= {"click_iou", "track_iou"}
    load(Sam2Settings(checkpoint=str(folder), device="cpu"))


def test_a_trained_folder_is_a_checkpoint_with_a_card(clips: list[RenderedClip], tmp_path: Path) -> None:
    lines: list[str] = []
    folder = loop.train(plan(tmp_path / "sam2"), iter(clips), CARD, lines.append)
    assert "step     4" in lines[-2]
    assert lines[-1].startswith("averaged weights: loss ")
    card = yaml.safe_load((folder / "card.yaml").read_text())
    assert (card["steps"], card["complete"], card["clips"]) == (4, True, 6)
    command = f"{folder} --steps 4 --seed 0 --clips 6 --batch 12 --learning-rate 0.001"
    assert card["command"] == f"python -m toy.sam2 {command}"
    assert card["data_digest"] == filled(clips).digest
    assert (folder / "model.safetensors").stat().st_size < 10_000_000
    assert sorted(path.name for path in folder.iterdir()) == ["card.yaml", "config.yaml", "model.safetensors"]

    model = load(Sam2Settings(checkpoint=str(folder), device="cpu"))
    assert all(p.dtype == torch.float32 for p in model.network.parameters())
    clip = make_clip(0, "valid", 0)
    video = Sam2Video(model, list(clip.images())[:3])
    tracked = [t.position for t in video.propagate(range(3), Masks(1, clip.mask((1,), 1)[None]))]
    assert tracked == [1, 2, 0]

    add_quality(folder, {"J": 0.5})
    assert yaml.safe_load((folder / "card.yaml").read_text()) == card | {"quality": {"J": 0.5}}
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(PrerequisiteError, match="written for other weights"):
        add_quality(folder, {"J": 0.5})
    with pytest.raises(PrerequisiteError, match=r"no card\.yaml"):
        add_quality(write_small(tmp_path / "other", 0), {"J": 0.5})


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_checkpoint(
    clips: list[RenderedClip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = loop.Trainer._batch

    def poisoned(self: loop.Trainer, fraction: float) -> Batch:
        batch = honest(self, fraction)
        return replace(batch, images_KT3SS=batch.images_KT3SS * float("nan")) if self.steps == 2 else batch

    monkeypatch.setattr(loop.Trainer, "_batch", poisoned)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    with pytest.raises(PrerequisiteError, match=r"not a number .* before step 3"):
        loop.train(plan(tmp_path / "sam2", save_every=0.0), iter(clips), CARD, lambda line: None)
    card = yaml.safe_load((tmp_path / "sam2" / "card.yaml").read_text())
    assert (card["steps"], card["complete"]) == (2, False)
    load(Sam2Settings(checkpoint=str(tmp_path / "sam2"), device="cpu"))


@pytest.mark.parametrize("changes", [{"steps": None}, {"seconds": 3.0}, {"steps": 0}, {"learning_rate": -1.0}])
def test_a_plan_without_sense_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError):
        plan(tmp_path, **changes)
