# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Everything on a slice, or in a box of it: a grid of prompts, and of their masks those that hold together.

As SAM's automatic mask generator (Kirillov et al., Segment Anything, 2023): decode each prompt of the grid, leave out what
the model scores low or what changes with the threshold, and suppress what is found twice. Before the score decides, each mask
is looked at again by a box around it, where the model takes boxes. On 9 slices of real CT and MR that leaves 12 segments a
slice of about 120 that points find; boxes of the grid alone hit 11 of 50 structures, and looked at again 19.

The suppression is by the IoU of the masks, in NumPy. Those of torchvision.ops are by boxes, which takes a ring for what it
surrounds; and their import is of torch: 8 s in a server on OpenVINO, which needs none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..embedding.engine import EncodedSlice
from ..errors import PromptError
from ..prompts import PixelPrompt

if TYPE_CHECKING:
    from ..models.base import MaskResult

MAX_GRID = 64
# Prompts that are decoded between two reports of progress.
BATCH = 16
# A box prompt's side, as a share of the region's longest side. Neighbours overlap by half.
BOX_SCALES = (1 / 2, 1 / 4, 1 / 8)
# Times that what a point, or a box of the grid, found is looked at again by the box around it: a box of the grid cuts off
# what the second time finds.
LOOKS_AFTER_POINT, LOOKS_AFTER_BOX = 1, 2
# Pixels between a mask and the box around it, as the boxes of users have them.
MARGIN_PX = 2
# Logits above and below the threshold between which a mask should not change, as SAM's generator has it.
STABILITY_OFFSET = 1.0
# Of what the grid finds. The box around it is worth a look even where the mask itself is not; measured, see Settings.
_LEAST_STABILITY = 0.6
# IoU of two masks of the grid that one look serves, and of what is looked at with what comes of it.
_SAME, _LEAST_AGREEMENT = 0.7, 0.7
# Of the region: a mask of more is its background.
_MOST_AREA = 0.9


@dataclass(frozen=True)
class Settings:
    """What is looked for, and how long.

    grid: points along the region's longest side; it bounds the time, which is that of at most 2 × grid² decodes. Boxes, for
        models that take no points, lie at most as close as points would, and are at most 3 × (grid + 1)², each looked at twice.
    min_score: the model's own estimate of the mask's IoU. min_stability: IoU of the mask at a threshold STABILITY_OFFSET
        higher with that at one as much lower. Both of the last look.
    max_overlap: IoU of two masks above which the better one stays. min_area_px: of a mask, and of each piece and hole.

    The defaults are LiteMedSAM's on CT and MR. Raises PromptError for what is out of range.
    """

    grid: int = 12
    min_score: float = 0.8
    min_stability: float = 0.75
    max_overlap: float = 0.6
    min_area_px: int = 20

    def __post_init__(self) -> None:
        if not 1 <= self.grid <= MAX_GRID:
            raise PromptError(f"A grid of {self.grid} prompts a side is out of range; give 1 to {MAX_GRID}.")
        for what in "min_score", "min_stability", "max_overlap":
            if not 0 <= (value := getattr(self, what)) <= 1:
                raise PromptError(f"{what} is {value}; give 0 to 1.")
        if self.min_area_px < 0:
            raise PromptError(f"min_area_px is {self.min_area_px}; give 0 or more pixels.")


@dataclass(frozen=True, eq=False)
class AutoSegment:
    """One thing on the slice. name: "auto 1" for the largest. mask: (H, W) bool. score, stability: as Settings has them."""

    name: str
    mask: np.ndarray
    score: float
    stability: float


@dataclass(frozen=True, eq=False)
class Progress:
    """Prompts decoded, of how many; the second looks join the total when the grid is done.

    segments: the largest first, with the last report alone.
    """

    done: int
    total: int
    segments: tuple[AutoSegment, ...] = ()


@dataclass(frozen=True, eq=False)
class _Proposal:
    """logits: (h, w) float16, over the encoder's padded input. mask: of the same shape, bool, none in the padding."""

    logits: np.ndarray
    mask: np.ndarray
    score: float
    stability: float

    @property
    def rank(self) -> float:
        return self.score * self.stability


def segment_everything(
    encoded: EncodedSlice,
    settings: Settings | None = None,
    box_xyxy: Sequence[float] | None = None,
    name: str = "auto",
) -> Iterator[Progress]:
    """Everything on an encoded slice, which is never encoded again. Stop reading to cancel.

    box_xyxy: x min, y min, x max, y max in pixels: prompts lie in it, and of each thing at least half; None: the slice.
    name: how the segments' names begin. Raises PromptError for a box that is none or off the slice.
    """
    settings = settings or Settings()
    rows, columns = encoded.embedding.original_size
    region = np.array([0, 0, columns - 1, rows - 1], np.float32)
    if box_xyxy is not None:
        prompt = PixelPrompt(box_xyxy=box_xyxy)
        if outside := prompt.outside(rows, columns):
            raise PromptError(f"{outside} the slice of {columns}x{rows} pixels; move it inside.")
        region = np.clip(prompt.box_xyxy, 0, region[[2, 3, 2, 3]])
    return _segment(encoded, settings, region, name)


def grid_prompts(encoded: EncodedSlice, grid: int, region_xyxy: np.ndarray) -> list[PixelPrompt]:
    """Prompts all over a region of a slice: points where the model takes them, else boxes of BOX_SCALES."""
    low, size = region_xyxy[:2], region_xyxy[2:] - region_xyxy[:2] + 1
    step = float(size.max()) / grid
    if encoded.model.takes_points:
        return [
            PixelPrompt([at], [1]) for at in _spread(low - 0.5, size, size / _count(size, step) / 2, step)
        ]
    prompts = []
    for scale in BOX_SCALES:
        half = np.minimum(size.max() * scale, size) / 2
        stride = max(step, float(size.max()) * scale / 2)
        prompts += [
            PixelPrompt(box_xyxy=np.concatenate([at - half, at + half]))
            for at in _spread(low - 0.5, size, half, stride)
        ]
    return prompts


def _count(size: np.ndarray, step: float) -> np.ndarray:
    return np.maximum(np.rint(size / step), 1)


def _spread(low: np.ndarray, size: np.ndarray, margin: np.ndarray, step: float) -> list[tuple[float, float]]:
    """Middles (x, y), about `step` apart, evenly from one margin to the other."""
    counts = (np.rint((size - 2 * margin) / step).astype(int) + 1).tolist()
    xs, ys = (
        np.linspace(a + m, a + s - m, n) if n > 1 else np.array([a + s / 2])
        for a, s, m, n in zip(low, size, margin, counts, strict=True)
    )
    return [(float(x), float(y)) for y in ys for x in xs]


def _segment(encoded: EncodedSlice, settings: Settings, region: np.ndarray, name: str) -> Iterator[Progress]:
    prompts = grid_prompts(encoded, settings.grid, region)
    of_region = _Region(encoded, region)
    done, total = 0, len(prompts)
    found: list[_Proposal] = []
    for batch in _batches(prompts):
        for result in encoded.model.decode_all(encoded.embedding, batch):
            found += of_region.proposals(result)
        # At once, so that memory holds what differs alone.
        found = suppressed(found, _SAME)
        done += len(batch)
        yield Progress(done, total)
    looks = LOOKS_AFTER_POINT if encoded.model.takes_points else LOOKS_AFTER_BOX
    for _ in range(looks if encoded.model.takes_box else 0):
        # No more than the grid has prompts, the best: the time stays bounded.
        found = suppressed(found, _SAME)[: len(prompts)]
        total += len(found)
        looked_at, found = found, []
        for batch in _batches(looked_at):
            boxes = [PixelPrompt(box_xyxy=of_region.box_around(proposal.mask)) for proposal in batch]
            for before, result in zip(batch, encoded.model.decode_all(encoded.embedding, boxes), strict=True):
                found += [
                    again
                    for again in of_region.proposals(result)
                    if iou(again.mask, before.mask) >= _LEAST_AGREEMENT
                ]
            done += len(batch)
            yield Progress(done, total)
    good = [p for p in found if p.score >= settings.min_score and p.stability >= settings.min_stability]
    yield Progress(done, total, _named(encoded, suppressed(good, settings.max_overlap), settings, name))


def _batches(items: Sequence) -> Iterator[Sequence]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


class _Region:
    """A region of an encoded slice, on the grid of the decoder's logits."""

    def __init__(self, encoded: EncodedSlice, region_xyxy: np.ndarray) -> None:
        embedding, side = encoded.embedding, encoded.model.image_size
        self._original, self._input, self._side = (
            np.array(embedding.original_size),
            embedding.input_size,
            side,
        )
        # Pixels of the slice, x and y, as those of the encoder's input.
        self._scale = (np.array(self._input) / self._original)[::-1]
        self._region = region_xyxy

    def proposals(self, result: MaskResult) -> Iterator[_Proposal]:
        """The masks of a result, at most three, that are stable and things of the region."""
        height, width = result.low_res_logits.shape[1:]
        cells = np.array([width, height]) / self._side
        # What is beyond is the encoder's padding.
        right, bottom = np.ceil(self._input[::-1] * cells).astype(int)
        low, high = self._region[:2] * self._scale * cells, (self._region[2:] + 1) * self._scale * cells
        (x0, y0), (x1, y1) = np.rint([low, high]).astype(int)
        for logits, score in zip(result.low_res_logits, result.scores, strict=True):
            stability = stability_of(logits[:bottom, :right])
            if stability < _LEAST_STABILITY:
                continue
            mask = logits > 0
            mask[bottom:], mask[:, right:] = False, False
            area, inside = np.count_nonzero(mask), np.count_nonzero(mask[y0:y1, x0:x1])
            if 2 * inside >= area > 0 and inside <= _MOST_AREA * (x1 - x0) * (y1 - y0):
                yield _Proposal(logits.astype(np.float16), mask, float(score), stability)

    def box_around(self, mask: np.ndarray) -> np.ndarray:
        """(4,) float32 x min, y min, x max, y max in pixels of the slice, MARGIN_PX around the mask (h, w) of a proposal."""
        x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
        pixels = self._side / mask.shape[0] / self._scale
        low, high = (
            np.array([x, y]) * pixels - MARGIN_PX,
            np.array([x + width, y + height]) * pixels + MARGIN_PX,
        )
        # To the outer edge of the last pixels: in a slice of one row a box has an area too.
        return np.concatenate([low, high]).clip(0, np.tile(self._original[::-1], 2)).astype(np.float32) - 0.5


def stability_of(logits: np.ndarray) -> float:
    """SAM's stability score: how much of a mask stays when the threshold moves by STABILITY_OFFSET, IoU, 0 to 1."""
    # The higher threshold's mask lies within the lower one's.
    lower = np.count_nonzero(logits > -STABILITY_OFFSET)
    return np.count_nonzero(logits > STABILITY_OFFSET) / lower if lower else 0.0


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Of two masks, (H, W) bool; 1 where both are empty."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


def suppressed(proposals: Sequence[_Proposal], max_overlap: float) -> list[_Proposal]:
    """The best first, without those whose mask has an IoU above `max_overlap` with a better one's."""
    stay: list[tuple[int, _Proposal]] = []
    for proposal in sorted(proposals, key=lambda p: -p.rank):
        area = np.count_nonzero(proposal.mask)
        # The IoU of two masks is at most the ratio of their areas, which costs nothing to look at.
        if not any(
            min(area, other_area) > max_overlap * max(area, other_area)
            and iou(proposal.mask, other.mask) > max_overlap
            for other_area, other in stay
        ):
            stay.append((area, proposal))
    return [proposal for _, proposal in stay]


def without_small_regions(mask: np.ndarray, min_area_px: int) -> np.ndarray:
    """A mask, (H, W) bool, without pieces and holes smaller than `min_area_px`."""
    for inverted in False, True:
        _, pieces, statistics, _ = cv2.connectedComponentsWithStats(
            (mask ^ inverted).astype(np.uint8), connectivity=8
        )
        small = statistics[:, cv2.CC_STAT_AREA] < min_area_px
        small[0] = False
        mask = mask ^ small[pieces]
    return mask


def _named(
    encoded: EncodedSlice, proposals: Sequence[_Proposal], settings: Settings, name: str
) -> tuple[AutoSegment, ...]:
    model, size = encoded.model, encoded.embedding.original_size
    found = []
    for proposal in proposals:
        mask = model.processor.mask(proposal.logits.astype(np.float32), size)
        mask = without_small_regions(mask, settings.min_area_px)
        if mask.sum() >= max(1, settings.min_area_px):
            found.append((mask, proposal))
    found.sort(key=lambda each: -int(each[0].sum()))
    return tuple(
        AutoSegment(f"{name} {number}", mask, proposal.score, proposal.stability)
        for number, (mask, proposal) in enumerate(found, start=1)
    )
