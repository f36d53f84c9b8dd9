# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A whole-volume task from its request to its masks, for whoever has a volume, a model and embeddings."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from ..embedding.engine import EncodedSlice
from ..errors import PromptError
from ..geometry import Plane, VolumeGeometry
from ..sources.base import ImageId
from ..sources.volume import Volume
from .automatic import Progress, segment_everything
from .box3d import Box3D, segment_box
from .planes import across, fused, voxels_of
from .propagation import Mark, Propagated, Stopped, propagate
from .slices import PlaneSlices

if TYPE_CHECKING:
    from ..models.base import SegmentationModel


class TaskKind(IntEnum):
    """What is segmented; the numbers are those of SegmentVolume.action."""

    PROPAGATE = 0
    BOX = 1
    THREE_PLANES = 2
    AUTOMATIC = 3


@dataclass(frozen=True, eq=False)
class VolumeRequest:
    """A whole-volume task.

    segment: which the masks are for; of AUTOMATIC, how the names of its segments begin. between: the first and the last
    slice; AUTOMATIC takes the first alone. marks: of PROPAGATE, one per marked slice; of AUTOMATIC, none or one, whose box
    holds what is wanted. box: of BOX. THREE_PLANES takes marks or a box. frozen: slices that are not written, and where propagation stops.
    """

    kind: TaskKind
    segment: str
    plane: Plane
    between: tuple[int, int]
    marks: Sequence[Mark] = ()
    box: Box3D | None = None
    frozen: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class SegmentedSlice:
    """A mask, (H, W) bool, on one slice. score: the model's own, 0 to 1."""

    segment: str
    plane: Plane
    index: int
    mask: np.ndarray
    score: float


def segment(
    request: VolumeRequest,
    volume: Volume,
    model: SegmentationModel,
    embed: Callable[[ImageId], Future[EncodedSlice]],
    make_way: Callable[[], None] | None = None,
) -> Iterator[SegmentedSlice | Stopped | Progress]:
    """The masks as they are made, and how far AUTOMATIC is; close the iterator to end early. A later mask of a slice counts.

    embed, make_way: as of PlaneSlices. Raises PromptError for what cannot be done, and what an embedding raises.
    """
    slices_of = functools.partial(PlaneSlices, volume, model=model, embed=embed, make_way=make_way)
    if request.kind is TaskKind.AUTOMATIC:
        return _automatic(request, slices_of(request.plane))
    found = _of_one_segment(request, _in_one_plane(request, slices_of(request.plane)))
    return (
        _fused(request, found, volume.geometry, slices_of) if request.kind is TaskKind.THREE_PLANES else found
    )


def _in_one_plane(request: VolumeRequest, slices: PlaneSlices) -> Iterator[Propagated | Stopped]:
    if request.kind is TaskKind.PROPAGATE or (request.kind is TaskKind.THREE_PLANES and request.marks):
        return propagate(slices, request.marks, dict.fromkeys(request.frozen), request.between)
    return segment_box(slices, _box(request))


def _fused(
    request: VolumeRequest,
    found: Iterator[SegmentedSlice | Stopped],
    geometry: VolumeGeometry,
    slices_of: Callable[[Plane], PlaneSlices],
) -> Iterator[SegmentedSlice | Stopped | Progress]:
    """What is found in the request's plane, and in the end what the planes say together where that is another mask."""
    first: dict[int, SegmentedSlice] = {}
    with contextlib.closing(found):
        for each in found:
            if isinstance(each, SegmentedSlice):
                first[each.index] = each
            yield each
    if not any(each.mask.any() for each in first.values()):
        return
    marked = voxels_of({index: each.mask for index, each in first.items()}, geometry, request.plane)
    others, done = [], 0
    for plane in Plane:
        if plane == request.plane:
            continue
        masks: dict[int, np.ndarray] = {}
        with contextlib.closing(across(slices_of(plane), marked)) as walk:
            for each in walk:
                if isinstance(each, Propagated):
                    masks[each.index] = each.mask
                    done += 1
                    yield Progress(done, 0)
        others.append(voxels_of(masks, geometry, plane))
    together = fused(marked, others)
    for index, each in first.items():
        mask = geometry.take_slice(together, request.plane, index).copy()
        if (mask != each.mask).any():
            yield replace(each, mask=mask)


def _box(request: VolumeRequest) -> Box3D:
    if request.box is None:
        raise PromptError("The task has no box; give its centre and size.")
    return request.box


def _of_one_segment(
    request: VolumeRequest, found: Iterator[Propagated | Stopped]
) -> Iterator[SegmentedSlice | Stopped]:
    first, last = request.between
    with contextlib.closing(found):
        for each in found:
            if isinstance(each, Stopped):
                yield each
            elif first <= each.index <= last and each.index not in request.frozen:
                score = 1.0 if np.isnan(each.score) else float(each.score)
                yield SegmentedSlice(request.segment, request.plane, each.index, each.mask, score)


def _automatic(request: VolumeRequest, slices: PlaneSlices) -> Iterator[SegmentedSlice | Progress]:
    index = request.between[0]
    slices.check_index(index, "The task")
    if index in request.frozen:
        raise PromptError(f"Slice {index} is frozen; take another, or leave it out of the frozen ones.")
    prompt = request.marks[0].prompt if request.marks else None
    box = prompt.box_xyxy if prompt else None
    for progress in segment_everything(slices.encoded(index), None, box, request.segment or "auto"):
        yield progress
        for each in progress.segments:
            yield SegmentedSlice(each.name, request.plane, index, each.mask, each.score)
