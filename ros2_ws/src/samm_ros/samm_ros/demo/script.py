# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the demo prompts for: its own session on the MNI brain, or what the command line says."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from samm_core.errors import PromptError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.prompts import Prompt, pixel_box, pixel_points


@dataclass(frozen=True, eq=False)
class Step:
    """One prompt and the segment that its mask goes to."""

    segment: str
    prompt: Prompt


def parse(
    boxes: list[str], points: list[str], negatives: list[str], segment: str, geometry: VolumeGeometry
) -> list[Step]:
    """The prompts of the command line, those on one slice together; forms as in `samm demo --help`.

    Raises PromptError for a text of another form, and for a position off the volume.
    """
    drawn: dict[tuple[Plane, int], _Marks] = {}
    for text, label, corners in [
        *((text, None, 2) for text in boxes),
        *((text, 1, 1) for text in points),
        *((text, 0, 1) for text in negatives),
    ]:
        plane, index, pixels = _on_slice(text, corners, geometry)
        marks = drawn.setdefault((plane, index), _Marks())
        if label is None:
            if marks.box is not None:
                raise PromptError(f"The box {text} is the second on its slice; give one box a slice.")
            marks.box = pixels
        else:
            marks.points.extend(pixels)
            marks.labels.append(label)
    prompts = [
        Prompt(plane, index, False, np.array(m.points).reshape(-1, 3), np.array(m.labels, "u1"), m.box)
        for (plane, index), m in drawn.items()
    ]
    for prompt in prompts:
        _check(prompt, geometry)
    return [Step(segment, prompt) for prompt in prompts]


def _check(prompt: Prompt, geometry: VolumeGeometry) -> None:
    """Raises PromptError for what the graph would refuse, before there is a graph."""
    index, pixels = prompt.on_slice(geometry)
    plane = prompt.plane.name.lower()
    if not geometry.contains_slice(prompt.plane, index):
        last = geometry.slice_count(prompt.plane) - 1
        raise PromptError(
            f"There is no {plane} slice {index}; the volume has slices 0 to {last} in that plane."
        )
    rows, columns = geometry.slice_shape(prompt.plane)
    if outside := pixels.outside(rows, columns):
        raise PromptError(f"{outside} the {plane} slices, which have {columns} × {rows} pixels.")


@dataclass
class _Marks:
    points: list[np.ndarray] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    box: np.ndarray | None = None


def _on_slice(text: str, count: int, geometry: VolumeGeometry) -> tuple[Plane, int, np.ndarray]:
    """The plane, the slice and `count` positions (count, 3) in its pixels."""
    form = f"{text} is no prompt; write PLANE:SLICE:{','.join(['x,y'] * count)} or PLANE:ras:{','.join(['R,A,S'] * count)}."
    name, _, rest = text.partition(":")
    where, _, numbers = rest.partition(":")
    try:
        plane = Plane[name.upper()]
        values = np.array([float(number) for number in numbers.split(",")])
        index = None if where.lower() == "ras" else int(where)
        positions = values.reshape(count, 3 if index is None else 2)
    except (KeyError, ValueError):
        raise PromptError(form) from None
    if index is None:
        # A box in RAS is flat on its slice: its centre says which one.
        index = geometry.slice_at(positions.mean(axis=0), plane)
        pixels = geometry.to_slice(positions, plane, index)
    else:
        pixels = positions
    return plane, index, np.column_stack([pixels, np.zeros(count)])


def _clicked(segment: str, plane: Plane, index: int, *marks: tuple[float, float, int]) -> list[Step]:
    """One click after the other, each with its label; every step has those before it too."""
    steps = []
    for count in range(1, len(marks) + 1):
        positive, negative = ([(x, y) for x, y, sign in marks[:count] if sign == label] for label in (1, 0))
        steps.append(Step(segment, pixel_points(plane, index, positive, negative)))
    return steps


# Structures of the MNI brain that LiteMedSAM outlines well, in pixels of (197, 233, 189) voxels of 1 mm: first by clicks,
# each of which corrects the mask before it, then by boxes.
MNI = [
    *_clicked("left temporal pole", Plane.AXIAL, 35, (61, 136, 1), (47, 125, 1), (66, 152, 1)),
    *_clicked("pons", Plane.SAGITTAL, 98, (109, 38, 1), (105, 56, 0)),
    *_clicked("vermis", Plane.SAGITTAL, 98, (71, 36, 1)),
] + [
    Step(segment, pixel_box(plane, index, *corners))
    for segment, plane, slices in [
        (
            "left temporal pole",
            Plane.AXIAL,
            {30: (36, 112, 80, 160), 33: (36, 110, 82, 162), 37: (35, 110, 84, 163)},
        ),
        (
            "pons",
            Plane.AXIAL,
            {35: (76, 90, 122, 124), 38: (76, 90, 122, 124), 40: (76, 91, 122, 124), 42: (76, 92, 122, 124)},
        ),
        ("medulla", Plane.AXIAL, {26: (86, 85, 114, 112), 28: (86, 85, 114, 112)}),
        (
            "brain stem",
            Plane.CORONAL,
            {100: (82, 8, 116, 75), 102: (81, 8, 117, 75), 104: (80, 8, 118, 75), 106: (79, 14, 119, 75)},
        ),
        (
            "brain stem",
            Plane.SAGITTAL,
            {94: (84, 2, 122, 68), 96: (84, 2, 122, 68), 98: (84, 2, 120, 68), 100: (84, 2, 122, 68)},
        ),
    ]
    for index, corners in slices.items()
]
