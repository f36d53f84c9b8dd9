# SPDX-License-Identifier: Apache-2.0
"""What the demo prompts for: its own session on the MNI brain, or what the command line says."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import PromptError, VolumeError
from ..geometry import Plane, VolumeGeometry
from ..prompts import Prompt

_MNI = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


@dataclass(frozen=True, eq=False)
class Step:
    """One prompt and the segment that its mask goes to."""

    segment: str
    prompt: Prompt


def mni_volume() -> Path:
    """The T1 template of the ICBM 152 atlas (197×233×189, 1 mm), from the package data of nilearn.

    Raises VolumeError where nilearn is not installed.
    """
    # Found, not imported: nilearn's own requirements are not needed for its data.
    spec = importlib.util.find_spec("nilearn")
    path = Path(spec.origin).parent / _MNI if spec else None
    if path is None or not path.exists():
        raise VolumeError(
            "The MNI volume comes with nilearn, which is not installed; name a volume of your own."
        )
    return path


def box(plane: Plane, slice_index: int, x0: float, y0: float, x1: float, y1: float) -> Prompt:
    """A box in pixels of a slice."""
    corners = np.array([(x0, y0, 0.0), (x1, y1, 0.0)])
    return Prompt(plane, slice_index, False, np.zeros((0, 3)), np.zeros(0, np.uint8), corners)


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
    return [
        Step(
            segment,
            Prompt(plane, index, False, np.array(m.points).reshape(-1, 3), np.array(m.labels, "u1"), m.box),
        )
        for (plane, index), m in drawn.items()
    ]


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


# Boxes around structures of the MNI brain that LiteMedSAM outlines well, in pixels of (197, 233, 189) voxels of 1 mm.
MNI = [
    Step(segment, box(plane, index, *corners))
    for segment, plane, slices in [
        (
            "left temporal pole",
            Plane.AXIAL,
            {30: (36, 112, 80, 160), 33: (36, 110, 82, 162), 35: (36, 110, 82, 162), 37: (35, 110, 84, 163)},
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
        ("pons", Plane.SAGITTAL, {98: (94, 20, 122, 56)}),
        ("vermis", Plane.SAGITTAL, {98: (50, 14, 92, 64)}),
    ]
    for index, corners in slices.items()
]
