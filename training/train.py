# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Trains the decoder for points on encoded slices."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from benchmarks.clicks import Click, first_click, next_click
from samm_core.models import checkpoint_of
from samm_core.models.backends.decoder import FusedDecoder
from samm_core.models.checkpoint import load_weights
from samm_core.models.families.lite_medsam import build_lite_medsam
from samm_core.models.families.point_decoder import WEIGHTS_FILE, PointDecoder
from samm_core.models.processor import BOX_MAX, BOX_MIN, PADDING

from .encode import SIDE, TrainingSlice, load, paths

SLICES, OBJECTS, ROUNDS = 2, 3, 2
LEARNING_RATE, WARM_UP_STEPS = 3e-4, 60
AVERAGE_DECAY = 0.995
_WITH_BOX = 0.4
_SAVE_S, JUDGE_STEPS = 120, 500


class Prompts:
    """The prompts of B objects on one slice, with the same number of clicks for each."""

    def __init__(self, truths: np.ndarray, boxes: np.ndarray | None) -> None:
        """truths (B, 256, 256) bool; boxes (B, 4) or None."""
        self.truths, self.boxes = truths, boxes
        self.clicks: list[list[Click]] = [[] for _ in truths]

    def point_inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """point_coords (B, N, 2) float32 and point_labels (B, N) int64, as Processor.point_inputs gives them."""
        coords = np.array([[(c.x, c.y) for c in clicks] for clicks in self.clicks], np.float32).reshape(
            len(self.truths), -1, 2
        )
        labels = np.array([[int(c.positive) for c in clicks] for clicks in self.clicks], np.int64).reshape(
            len(coords), -1
        )
        if self.boxes is None:
            extra, kinds = np.zeros((len(coords), 1, 2), np.float32), [PADDING]
        else:
            extra, kinds = self.boxes.reshape(-1, 2, 2).astype(np.float32), [BOX_MIN, BOX_MAX]
        labels = np.concatenate([labels, np.tile(kinds, (len(coords), 1))], 1)
        return torch.from_numpy(np.concatenate([coords, extra], 1)), torch.from_numpy(labels)

    @property
    def ambiguous(self) -> bool:
        """Whether the decoder proposes several masks, as Processor.multimask_output says."""
        return self.boxes is None and len(self.clicks[0]) == 1

    def add(self, answers: np.ndarray | None, random: np.random.Generator) -> None:
        """One more click for each object: the first, or in an error of `answers`, (B, 256, 256) bool."""
        for truth, clicks, answer in zip(
            self.truths, self.clicks, answers if answers is not None else self.truths, strict=True
        ):
            part = float(random.choice([0.5, 0.8, 0.1], p=[0.6, 0.2, 0.2]))
            click = None if answers is None else next_click(truth, answer, random, part)
            click = click or first_click(truth, random, part)
            shift = random.uniform(-0.5, 0.5, 2)
            clicks.append(Click(click.x + shift[0], click.y + shift[1], click.positive))


def new_decoder() -> PointDecoder:
    """The decoder that training starts from: LiteMedSAM's, with its further masks made from its first."""
    network = build_lite_medsam()
    load_weights(network, checkpoint_of("lite_medsam"), "lite_medsam")
    decoder = PointDecoder(network)
    with torch.no_grad():
        tokens, heads = (
            decoder.mask_decoder.mask_tokens.weight,
            decoder.mask_decoder.output_hypernetworks_mlps,
        )
        heads[1].load_state_dict(heads[0].state_dict())
        torch.manual_seed(0)
        tokens[1:] = tokens[:1] + 0.1 * tokens[:1].std() * torch.randn_like(tokens[1:])
        last = decoder.mask_decoder.iou_prediction_head.layers[-1]
        last.weight[1:], last.bias[1:] = last.weight[:1], last.bias[:1]
        points = decoder.prompt_encoder.point_embeddings
        # The embeddings of points were never trained. They start at random, far smaller than those of a box's corners.
        for kind in (points[0], points[1], decoder.prompt_encoder.not_a_point_embed):
            kind.weight.normal_(0, 0.02)
    return decoder


def fused(decoder: PointDecoder, variant: str = "maps") -> FusedDecoder:
    """The decoder as it is called; variant: as in `trainable`."""
    return FusedDecoder(decoder, multimask=True, clicks=decoder.clicks if variant == "maps" else None)


def trainable(decoder: PointDecoder, variant: str) -> list[torch.nn.Parameter]:
    """The parameters to train. variant: "maps": all, with click maps; "all": without maps; "embeddings": those of points."""
    decoder.requires_grad_(variant != "embeddings")
    if variant == "embeddings":
        points = decoder.prompt_encoder
        for part in (points.point_embeddings[0], points.point_embeddings[1], points.not_a_point_embed):
            part.requires_grad_(True)
    if variant == "all":
        decoder.clicks.requires_grad_(False)
    return [p for p in decoder.parameters() if p.requires_grad]


def losses(
    logits: torch.Tensor, scores: torch.Tensor, truths: torch.Tensor, size: tuple[int, int], prompts: Prompts
) -> torch.Tensor:
    """The loss of each object, (B,). Where the click is ambiguous, it is mostly that of the best mask, as in SAM.

    logits: (B, 4, 256, 256). scores: (B, 4). truths: (B, 256, 256) of 0 or 1. size: rows and columns without padding.
    """
    rows, columns = size
    chosen = slice(0, 4) if prompts.ambiguous else slice(0, 1)
    logits, truths = logits[:, chosen, :rows, :columns], truths[:, None, :rows, :columns]
    target = truths.expand_as(logits)
    each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((2, 3))
    probability = logits.sigmoid()
    overlap, total = (probability * target).sum((2, 3)), probability.sum((2, 3)) + target.sum((2, 3))
    each = 2 * each + 1 - (2 * overlap + 1) / (total + 1)
    with torch.no_grad():
        masks = logits > 0
        both, either = (masks & (target > 0.5)).sum((2, 3)), (masks | (target > 0.5)).sum((2, 3))
        iou = both / either.clamp(min=1)
    score_loss = (scores[:, chosen] - iou).square()
    # The mask must hold positive clicks and leave out negative ones.
    coords, labels = prompts.point_inputs()
    count = len(prompts.clicks[0])
    if count:
        at = coords[:, :count].round().long()
        values = logits[
            torch.arange(len(logits))[:, None, None],
            torch.arange(logits.shape[1])[None, :, None],
            at[:, None, :, 1].clamp(0, rows - 1),
            at[:, None, :, 0].clamp(0, columns - 1),
        ]
        expected = labels[:, None, :count].float().expand_as(values)
        each = each + 0.3 * functional.binary_cross_entropy_with_logits(
            values, expected, reduction="none"
        ).mean(2)
    if prompts.ambiguous:
        proposed = each[:, 1:]
        return proposed.min(1).values + 0.05 * proposed.mean(1) + 0.5 * each[:, 0] + score_loss.mean(1)
    return each[:, 0] + score_loss[:, 0]


def answers_of(
    logits: torch.Tensor, scores: torch.Tensor, prompts: Prompts, size: tuple[int, int]
) -> np.ndarray:
    """The masks that a user would see, (B, 256, 256) bool; arguments as in `losses`."""
    best = 1 + scores[:, 1:].argmax(1) if prompts.ambiguous else torch.zeros(len(logits), dtype=torch.long)
    masks = (logits[torch.arange(len(logits)), best] > 0).numpy()
    masks[:, size[0] :], masks[:, :, size[1] :] = False, False
    return masks


def random_prompts(encoded: TrainingSlice, random: np.random.Generator) -> Prompts:
    """A box, a click or both for up to OBJECTS of a slice's objects."""
    count = min(OBJECTS, len(encoded.masks))
    truths = encoded.masks[random.choice(len(encoded.masks), count, replace=False)]
    boxes = None
    with_box = random.random() < _WITH_BOX
    if with_box:
        boxes = np.stack([box_around(truth, encoded.size, random) for truth in truths])
    prompts = Prompts(truths, boxes)
    if not with_box or random.random() < 0.7:
        prompts.add(None, random)
    return prompts


def box_around(truth: np.ndarray, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """A box around a mask with random margins, (4,): x min, y min, x max, y max, within `size` rows and columns."""
    rows, columns = (np.flatnonzero(truth.any(axis)) for axis in (1, 0))
    box = np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float32)
    reach = 1 + 0.04 * np.array([box[2] - box[0], box[3] - box[1]] * 2)
    box = box + (-2, -2, 2, 2) + random.uniform(-1, 1, 4) * reach
    low, high = box[:2].clip(0, (size[1] - 2, size[0] - 2)), box[2:].clip((1, 1), (size[1] - 1, size[0] - 1))
    return np.concatenate([low, np.maximum(high, low + 1)])


def train(data: Path, held_out: Path, out: Path, steps: int, variant: str = "maps", seed: int = 1) -> None:
    """Train up to `steps`, with those of an earlier run in `out`, and write weights and curve there."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    run = _Run(variant)
    run.resume(out)
    files = paths(data)
    began = time.monotonic() - run.seconds
    saved = time.monotonic()
    while run.step < steps:
        random = np.random.default_rng((seed, run.step))
        if run.step % 100 == 0:
            files = paths(data)  # more may have been made meanwhile
        run.learn([load(files[i]) for i in random.integers(len(files), size=SLICES)], steps, random)
        run.seconds = time.monotonic() - began
        if run.step % 10 == 0:
            progress = f"{run.seconds / 60:6.1f} min, step {run.step} of {steps}, loss {run.mean_loss:.3f}, {len(files)} slices"
            print(f"\r{progress}", end="", flush=True)
        if run.step % JUDGE_STEPS == 0 or run.step == steps:
            dice = judge(run.judged, held_out)
            run.curve.append(
                {"step": run.step, "minutes": run.seconds / 60, "loss": run.mean_loss, "dice": dice}
            )
            print(
                "\nheld out: " + ", ".join(f"{name} {value:.3f}" for name, value in dice.items()), flush=True
            )
        if time.monotonic() - saved > _SAVE_S or run.step == steps:
            run.save(out)
            saved = time.monotonic()
    print()


class _Run:
    """A decoder in training, and the running average of its weights, which is published."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.decoder = new_decoder()
        self.average = copy.deepcopy(self.decoder)
        self.parameters = trainable(self.decoder, variant)
        self.optimiser = torch.optim.AdamW(self.parameters, LEARNING_RATE, weight_decay=0.01)
        self.fused, self.judged = fused(self.decoder, variant), fused(self.average, variant).eval()
        self.step, self.seconds, self.mean_loss, self.curve = 0, 0.0, math.nan, []

    def learn(self, slices: list[TrainingSlice], steps: int, random: np.random.Generator) -> None:
        """One step of the optimiser, on random prompts and on clicks that correct the answers to them."""
        warm, done = min(1, (self.step + 1) / WARM_UP_STEPS), self.step / steps
        for group in self.optimiser.param_groups:
            group["lr"] = LEARNING_RATE * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        self.optimiser.zero_grad()
        total = 0.0
        for encoded in slices:
            feature, prompts = torch.from_numpy(encoded.features)[None], random_prompts(encoded, random)
            truths = torch.from_numpy(prompts.truths).float()
            for turn in range(ROUNDS):
                logits, scores = self.fused(feature, *prompts.point_inputs())
                loss = losses(logits, scores, truths, encoded.size, prompts).mean() / (len(slices) * ROUNDS)
                loss.backward()
                total += float(loss.detach())
                if turn < ROUNDS - 1:
                    answers = answers_of(logits.detach(), scores.detach(), prompts, encoded.size)
                    for _ in range(int(random.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))):
                        prompts.add(answers, random)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.step += 1
        self.mean_loss = total if math.isnan(self.mean_loss) else 0.98 * self.mean_loss + 0.02 * total
        decay = min(AVERAGE_DECAY, self.step / (self.step + 10))
        with torch.no_grad():
            for average, trained in zip(self.average.parameters(), self.decoder.parameters(), strict=True):
                average.lerp_(trained, 1 - decay)

    def save(self, out: Path) -> None:
        """Write what `resume` reads, and the averaged weights as the package holds them."""
        state = {
            "decoder": self.decoder.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "progress": json.dumps([self.step, self.seconds, self.mean_loss, self.curve]),
        }
        torch.save(state, out / "state.part")
        os.replace(out / "state.part", out / "state.pt")
        save_file(self.average.to_store(), out / WEIGHTS_FILE, {"variant": self.variant})
        (out / "curve.json").write_text(json.dumps(self.curve, indent=1))

    def resume(self, out: Path) -> None:
        """Continue a run that was saved in `out`, if there is one."""
        if not (out / "state.pt").exists():
            return
        state = torch.load(out / "state.pt", weights_only=True)
        self.decoder.load_state_dict(state["decoder"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds, self.mean_loss, self.curve = json.loads(state["progress"])


@torch.no_grad()
def judge(decoder: FusedDecoder, held_out: Path, limit: int = 48, objects: int = 3) -> dict[str, float]:
    """Mean Dice on slices that training never sees, after some clicks, of a box, and of a box with a click."""
    sums: dict[str, list[float]] = {}
    for number, path in enumerate(paths(held_out)[:limit]):
        encoded = load(path)
        random = np.random.default_rng(number)
        truths = encoded.masks[
            random.choice(len(encoded.masks), min(objects, len(encoded.masks)), replace=False)
        ]
        feature = torch.from_numpy(encoded.features)[None]

        def ask(
            prompts: Prompts, name: str, feature: torch.Tensor = feature, encoded: TrainingSlice = encoded
        ) -> np.ndarray:
            logits, scores = decoder(feature, *prompts.point_inputs())
            answers = answers_of(logits, scores, prompts, encoded.size)
            sums.setdefault(name, []).extend(dice(a, t) for a, t in zip(answers, prompts.truths, strict=True))
            if prompts.ambiguous:
                masks = (logits[:, 1:] > 0).numpy()
                sums.setdefault("1 click, best", []).extend(
                    max(dice(m & _valid(encoded.size), t) for m in proposed)
                    for proposed, t in zip(masks, prompts.truths, strict=True)
                )
            return answers

        prompts = Prompts(truths, None)
        answers = None
        for count in range(1, 6):
            for each, truth in enumerate(truths):
                click = next_click(truth, answers[each], random) if answers is not None else None
                prompts.clicks[each].append(click or first_click(truth, random))
            answers = ask(prompts, f"{count} clicks")
        boxed = Prompts(truths, np.stack([box_around(t, encoded.size, random) for t in truths]))
        ask(boxed, "box")
        boxed.add(None, random)
        ask(boxed, "box and click")
    return {name: float(np.mean(values)) for name, values in sums.items()}


def _valid(size: tuple[int, int]) -> np.ndarray:
    inside = np.zeros((SIDE, SIDE), bool)
    inside[: size[0], : size[1]] = True
    return inside


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Of two bool masks of one shape; 1.0 where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
