# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Everything on a slice: found by points and by boxes, each thing once, within a bound, on an embedding that is there."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
import SimpleITK as sitk

from samm_core.embedding.engine import EncodedSlice
from samm_core.errors import PromptError
from samm_core.geometry import Plane
from samm_core.models.base import MaskResult, SegmentationModel
from samm_core.models.parity import dice_of, phantom
from samm_core.sources.volume import read_here
from samm_core.tasks.automatic import (
    BATCH,
    AutoSegment,
    Settings,
    grid_prompts,
    segment_everything,
    stability_of,
    without_small_regions,
)

DATA = Path(os.environ.get("SAMM_TEST_DATA", Path(__file__).parents[5] / "shared" / "data"))
ORGANS = {1: "spleen", 2: "right kidney", 3: "left kidney", 5: "liver", 6: "stomach"}
# Two of the phantom's organs: centre, half axes, angle.
ELLIPSES = {"left organ": ((58, 62), (38, 27), 25), "right organ": ((143, 88), (20, 31), -20)}


@dataclass(eq=False)
class Counting:
    """A real model that counts what it decodes, and takes no points or no boxes where asked; it is never to encode."""

    model: SegmentationModel
    takes_points: bool = True
    takes_box: bool = True
    decoded: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)

    def encode(self, *_: object) -> None:
        raise AssertionError("the slice was encoded again")

    def decode_all(self, embedding: object, prompts: list) -> list[MaskResult]:
        assert all(self.takes_points or not prompt.has_points for prompt in prompts)
        assert all(self.takes_box or not prompt.has_box for prompt in prompts)
        self.decoded.append(len(prompts))
        return self.model.decode_all(embedding, prompts)


@pytest.fixture(scope="module")
def encoded(lite_medsam: SegmentationModel) -> EncodedSlice:
    (embedding,) = lite_medsam.encode([phantom()])
    return EncodedSlice(embedding, lite_medsam)


def counting(encoded: EncodedSlice, **takes: bool) -> EncodedSlice:
    return EncodedSlice(encoded.embedding, Counting(encoded.model, **takes))


def organ(name: str) -> np.ndarray:
    """(150, 200) bool: an ellipse of the phantom, as cv2 draws it."""
    mask = np.zeros((150, 200), np.uint8)
    centre, axes, angle = ELLIPSES[name]
    cv2.ellipse(mask, centre, axes, angle, 0, 360, 1, -1)
    return mask.astype(bool)


def best(segments: tuple[AutoSegment, ...], mask: np.ndarray) -> float:
    return max((dice_of(segment.mask, mask) for segment in segments), default=0.0)


@pytest.mark.parametrize("takes", [{}, {"takes_points": False}], ids=["points", "boxes"])
def test_organs_are_found_once_each_with_progress_and_within_the_bound(
    encoded: EncodedSlice, takes: dict
) -> None:
    of = counting(encoded, **takes)
    settings = Settings(grid=6)

    *before, last = segment_everything(of, settings)

    assert last.segments and not any(report.segments for report in before)
    assert [report.done for report in before] == np.cumsum(of.model.decoded).tolist()
    assert last.done == last.total == sum(of.model.decoded)
    assert max(of.model.decoded) <= BATCH
    prompts = grid_prompts(of, 6, np.array([0, 0, 199, 149]))
    assert len(prompts) <= last.done <= (2 if of.model.takes_points else 3) * len(prompts)
    for name in ELLIPSES:
        assert best(last.segments, organ(name)) >= 0.8, name
    assert [segment.name for segment in last.segments] == [f"auto {n + 1}" for n in range(len(last.segments))]
    areas = [int(segment.mask.sum()) for segment in last.segments]
    assert areas == sorted(areas, reverse=True)
    for number, segment in enumerate(last.segments):
        assert segment.mask.shape == (150, 200) and segment.mask.dtype == bool
        assert segment.score >= settings.min_score and segment.stability >= settings.min_stability
        for other in last.segments[:number]:
            union = (segment.mask | other.mask).sum()
            assert (segment.mask & other.mask).sum() / union <= settings.max_overlap + 0.1


def test_a_model_that_takes_points_alone_is_served(encoded: EncodedSlice) -> None:
    """Its masks are not looked at again; its scores are lower."""
    of = counting(encoded, takes_box=False)

    *_, last = segment_everything(of, Settings(grid=5, min_score=0.5, min_stability=0.7))

    assert last.done == last.total == len(grid_prompts(of, 5, np.array([0, 0, 199, 149])))
    assert best(last.segments, organ("right organ")) >= 0.8


def test_in_a_box_only_what_lies_in_it_is_found(encoded: EncodedSlice) -> None:
    *_, last = segment_everything(encoded, Settings(grid=5), (110, 40, 180, 130), name="box")

    assert best(last.segments, organ("right organ")) >= 0.8
    assert best(last.segments, organ("left organ")) < 0.1
    assert last.segments[0].name == "box 1"
    for segment in last.segments:
        inside = segment.mask[39:132, 109:182].sum()
        assert inside >= 0.45 * segment.mask.sum()


def test_reading_no_further_ends_the_work(encoded: EncodedSlice) -> None:
    of = counting(encoded)
    reports = segment_everything(of, Settings(grid=8))

    assert next(reports).done == BATCH
    reports.close()

    assert of.model.decoded == [BATCH]


def test_prompts_are_spread_evenly_and_lie_on_the_slice(encoded: EncodedSlice) -> None:
    for grid in 1, 2, 7, 16:
        for region in ([0, 0, 199, 149], [20, 30, 24, 140], [5, 5, 5, 5]):
            region = np.array(region, np.float32)
            points = grid_prompts(encoded, grid, region)
            boxes = grid_prompts(counting(encoded, takes_points=False), grid, region)
            assert 1 <= len(points) <= grid**2
            assert 1 <= len(boxes) <= 3 * (grid + 1) ** 2
            for prompt in points + boxes:
                assert not prompt.outside(150, 200)
            middle = np.mean([prompt.points_xy[0] for prompt in points], axis=0)
            assert middle == pytest.approx((region[:2] + region[2:]) / 2, abs=0.01)


def test_stability_is_the_iou_of_the_mask_at_two_thresholds() -> None:
    logits = np.array([[-3, -1.5, -0.5, 0.5, 1.5, 3]], np.float32)
    higher, lower = logits > 1, logits > -1
    assert stability_of(logits) == (higher & lower).sum() / (higher | lower).sum() == 0.5
    assert stability_of(np.full((4, 4), -9, np.float32)) == 0


def test_small_pieces_and_small_holes_go_and_large_ones_stay() -> None:
    mask = np.zeros((30, 30), bool)
    mask[2:20, 2:20] = True
    mask[5:7, 5:7] = False  # a hole of 4
    mask[10:16, 10:16] = False  # a hole of 36
    mask[25:27, 25:27] = True  # a piece of 4

    cleaned = without_small_regions(mask, 10)

    assert cleaned[5:7, 5:7].all()
    assert not cleaned[10:16, 10:16].any()
    assert not cleaned[25:27, 25:27].any()
    assert np.array_equal(without_small_regions(mask, 0), mask)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda e: Settings(grid=0), "give 1 to 64"),
        (lambda e: Settings(grid=65), "give 1 to 64"),
        (lambda e: Settings(min_score=1.5), "min_score is 1.5; give 0 to 1"),
        (lambda e: Settings(min_area_px=-1), "give 0 or more"),
        (lambda e: segment_everything(e, box_xyxy=(5, 5, 5, 9)), "has no area"),
        (
            lambda e: segment_everything(e, box_xyxy=(300, 5, 310, 9)),
            "lies outside the slice of 200x150 pixels",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_once(encoded: EncodedSlice, make: object, sentence: str) -> None:
    with pytest.raises(PromptError, match=sentence):
        make(encoded)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the volumes are not in {DATA}; set SAMM_TEST_DATA")
def test_organs_of_a_real_slice_are_found(lite_medsam: SegmentationModel) -> None:
    volume = read_here(DATA / "ct_sm.nii.gz")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(DATA / "ct_seg.nii.gz")))
    (embedding,) = lite_medsam.encode([volume.slice_image(Plane.AXIAL, 15)])
    truth = volume.geometry.take_slice(labels, Plane.AXIAL, 15)

    *_, last = segment_everything(EncodedSlice(embedding, lite_medsam), Settings(grid=8))

    found = {name: best(last.segments, truth == label) for label, name in ORGANS.items()}
    assert sum(dice >= 0.8 for dice in found.values()) >= 3, found
