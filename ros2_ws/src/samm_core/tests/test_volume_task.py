# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A whole-volume task from its request to its masks, of each kind, on a ball with real weights."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest

from samm_core.embedding.engine import EncodedSlice
from samm_core.errors import PromptError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.models.base import SegmentationModel
from samm_core.models.parity import dice_of
from samm_core.prompts import PixelPrompt
from samm_core.sources.base import ImageId
from samm_core.sources.volume import Volume
from samm_core.sources.window import Window
from samm_core.tasks.automatic import Progress
from samm_core.tasks.box3d import Box3D
from samm_core.tasks.propagation import Mark, Stopped
from samm_core.tasks.volume_task import SegmentedSlice, TaskKind, VolumeRequest, segment

SIDE, RADIUS = 20, 4
CENTRE = np.array([10, 9, 11])  # k, j, i


@pytest.fixture(scope="module")
def ball() -> np.ndarray:
    return ((np.indices((SIDE,) * 3) - CENTRE[:, None, None, None]) ** 2).sum(axis=0) < RADIUS**2


@pytest.fixture(scope="module")
def volume(ball: np.ndarray) -> Volume:
    noise = np.random.default_rng(0).normal(0, 6, ball.shape)
    voxels = (60 + 120 * ball + noise).astype(np.int16)
    geometry = VolumeGeometry((SIDE,) * 3, np.diag([4.0, 4, 4, 1]))
    return Volume(voxels, geometry, Window(0, 255), "ball", "ball", "/ball.nii")


class Embedder:
    """Embeds each slice once, and counts."""

    def __init__(self, model: SegmentationModel, volume: Volume) -> None:
        self._model, self._volume = model, volume
        self.made: dict[ImageId, Future[EncodedSlice]] = {}

    def __call__(self, image: ImageId) -> Future[EncodedSlice]:
        if image not in self.made:
            (embedding,) = self._model.encode([self._volume.image(image.key)])
            self.made[image] = Future()
            self.made[image].set_result(EncodedSlice(embedding, self._model))
        return self.made[image]


@pytest.fixture(scope="module")
def embed(lite_medsam: SegmentationModel, volume: Volume) -> Embedder:
    return Embedder(lite_medsam, volume)


def request(kind: TaskKind, **changes: object) -> VolumeRequest:
    at, low = int(CENTRE[0]), CENTRE[::-1] - RADIUS
    mark = Mark(at, prompt=PixelPrompt(box_xyxy=[low[0], low[1], low[0] + 2 * RADIUS, low[1] + 2 * RADIUS]))
    asked = VolumeRequest(kind, "ball", Plane.AXIAL, (at - 1, at + 2), [mark])
    return replace(asked, **changes)


def masks_of(found: list) -> dict[int, np.ndarray]:
    return {each.index: each.mask for each in found if isinstance(each, SegmentedSlice)}


@pytest.mark.parametrize("kind", [TaskKind.PROPAGATE, TaskKind.BOX, TaskKind.THREE_PLANES])
def test_the_ball_is_found_on_each_slice_of_the_range(
    kind: TaskKind, volume: Volume, ball: np.ndarray, lite_medsam: SegmentationModel, embed: Embedder
) -> None:
    centre_ras = volume.geometry.ijk_to_ras[:3, :3] @ CENTRE[::-1] + volume.geometry.ijk_to_ras[:3, 3]
    box = Box3D(centre_ras, np.eye(3), 4.0 * np.array([RADIUS + 1, RADIUS + 1, 2.4]))
    ways = []
    asked = request(kind, box=box, frozen=frozenset([int(CENTRE[0]) - 1]))
    found = list(segment(asked, volume, lite_medsam, embed, lambda: ways.append(1)))
    masks = masks_of(found)
    assert set(masks) == set(range(CENTRE[0], CENTRE[0] + 3)), "but the frozen slice"
    for index, mask in masks.items():
        assert dice_of(mask, volume.geometry.take_slice(ball, Plane.AXIAL, index)) > 0.9, index
    assert len(ways) >= len(masks), "way is made before each prompt that is decoded"
    assert all(each.segment == "ball" for each in found if isinstance(each, SegmentedSlice))
    assert any(isinstance(each, Stopped) for each in found) == (kind is not TaskKind.BOX)


def test_everything_on_a_slice_is_a_segment_of_its_own_with_the_way_there(
    lite_medsam: SegmentationModel,
) -> None:
    # Oblong: fewer points lie in its grid.
    rows, columns = np.indices((24, 72))
    disc = (rows - 12) ** 2 + (columns - 36) ** 2 < 9**2
    voxels = (60 + 120 * disc + np.random.default_rng(0).normal(0, 6, disc.shape)).astype(np.int16)[None]
    geometry = VolumeGeometry((72, 24, 1), np.diag([2.0, 2, 2, 1]))
    disc_volume = Volume(voxels, geometry, Window(0, 255), "disc", "disc", "/disc.nii")
    asked = VolumeRequest(TaskKind.AUTOMATIC, "thing", Plane.AXIAL, (0, 0))

    found = list(segment(asked, disc_volume, lite_medsam, Embedder(lite_medsam, disc_volume)))

    things = [each for each in found if isinstance(each, SegmentedSlice)]
    assert any(isinstance(each, Progress) for each in found)
    assert things and [each.segment for each in things] == [f"thing {n + 1}" for n in range(len(things))]
    assert max(dice_of(each.mask, disc) for each in things) > 0.9


def test_a_task_may_be_ended_after_any_mask(
    volume: Volume, lite_medsam: SegmentationModel, embed: Embedder
) -> None:
    for kind in (TaskKind.PROPAGATE, TaskKind.THREE_PLANES, TaskKind.AUTOMATIC):
        for count in (1, 3):
            found = segment(request(kind), volume, lite_medsam, embed)
            for _ in range(count):
                next(found)
            found.close()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"marks": ()}, "no mark"),
        ({"kind": TaskKind.BOX}, "no box"),
        ({"kind": TaskKind.THREE_PLANES, "marks": ()}, "no box"),
        ({"kind": TaskKind.AUTOMATIC, "between": (99, 99)}, "slice 99"),
        ({"kind": TaskKind.AUTOMATIC, "frozen": frozenset([int(CENTRE[0]) - 1])}, "frozen"),
        ({"between": (0, 500)}, "500"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    changes: dict, sentence: str, volume: Volume, lite_medsam: SegmentationModel, embed: Embedder
) -> None:
    with pytest.raises(PromptError, match=sentence):
        list(segment(replace(request(TaskKind.PROPAGATE), **changes), volume, lite_medsam, embed))
