# SPDX-License-Identifier: Apache-2.0
"""Prompts: what a user marks in the world or on a slice, and the pixels of it that a model decodes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .errors import PromptError
from .geometry import Plane, VolumeGeometry

MAX_POINTS = 1024


def _no_points() -> np.ndarray:
    return np.zeros((0, 2), np.float32)


def _no_labels() -> np.ndarray:
    return np.zeros(0, np.uint8)


@dataclass(frozen=True, eq=False)
class PixelPrompt:
    """Points and a box on one slice; at least one of them.

    points_xy: (N, 2) float32 pixels, x the column and y the row; (0, 0) is the centre of the first pixel.
    labels: (N,) uint8, 1 for a point the mask must hold, 0 for one it must leave out.
    box_xyxy: (4,) float32 pixels, x min, y min, x max, y max; or None.

    Raises PromptError for anything else: wrong shapes, NaN, other labels, an empty or reversed box.
    """

    points_xy: np.ndarray = field(default_factory=_no_points)
    labels: np.ndarray = field(default_factory=_no_labels)
    box_xyxy: np.ndarray | None = None

    def __post_init__(self) -> None:
        points = _readonly(self.points_xy, np.float32) if np.size(self.points_xy) else _no_points()
        if points.ndim != 2 or points.shape[1] != 2:
            raise PromptError(f"Points have the shape {points.shape}; give one row of x, y a point.")
        if len(points) > MAX_POINTS:
            raise PromptError(f"The prompt has {len(points)} points; give at most {MAX_POINTS}.")
        given = np.asarray(self.labels)
        if given.shape != (len(points),):
            raise PromptError(f"There are {given.size} labels for {len(points)} points; give one a point.")
        if not np.isin(given, (0, 1)).all():
            raise PromptError(f"The labels are {given.tolist()}; a label is 1 (positive) or 0 (negative).")
        if not np.isfinite(points).all():
            raise PromptError("A point of the prompt is not finite; give x and y in pixels.")
        box = None if self.box_xyxy is None else _readonly(self.box_xyxy, np.float32)
        if box is not None:
            if box.shape != (4,):
                raise PromptError(f"The box has the shape {box.shape}; give x min, y min, x max, y max.")
            if not np.isfinite(box).all():
                raise PromptError("The box is not finite; give x min, y min, x max, y max in pixels.")
            if box[2] <= box[0] or box[3] <= box[1]:
                raise PromptError(
                    f"The box {box.tolist()} has no area; x max and y max must exceed x min and y min."
                )
        elif not len(points):
            raise PromptError("The prompt is empty; give a point or a box.")
        object.__setattr__(self, "points_xy", points)
        object.__setattr__(self, "labels", _readonly(given, np.uint8))
        object.__setattr__(self, "box_xyxy", box)

    @property
    def has_points(self) -> bool:
        return len(self.points_xy) > 0

    @property
    def has_box(self) -> bool:
        return self.box_xyxy is not None

    def outside(self, rows: int, columns: int) -> str:
        """What of the prompt lies outside a slice of this size, as the start of a sentence; empty: nothing does.

        A pixel reaches half a pixel around its centre. A box may reach over the edge but must overlap the slice.
        """
        last = np.array([columns, rows]) - 0.5
        for x, y in self.points_xy:
            if not (-0.5 <= x <= last[0] and -0.5 <= y <= last[1]):
                return f"The point ({x:g}, {y:g}) lies outside"
        if self.has_box:
            x0, y0, x1, y1 = self.box_xyxy
            if x1 < -0.5 or y1 < -0.5 or x0 > last[0] or y0 > last[1]:
                return f"The box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) lies outside"
        return ""


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a user marks on one slice, in RAS millimetres or in pixels.

    slice_index: None takes the slice that the first point, or the box's centre, lies on; RAS only.
    points: (N, 3) float64; RAS, or x, y and anything in pixels. labels: (N,) 1 or 0.
    box: (2, 3) float64, two opposite corners, or None.
    """

    plane: Plane
    slice_index: int | None
    in_ras: bool
    points: np.ndarray
    labels: np.ndarray
    box: np.ndarray | None = None

    def on_slice(self, geometry: VolumeGeometry) -> tuple[int, PixelPrompt]:
        """The slice's index and the prompt in its pixels.

        Raises PromptError for a prompt outside the volume, off the slice, or malformed.
        """
        points = np.asarray(self.points, np.float64).reshape(-1, 3)
        box = None if self.box is None else np.asarray(self.box, np.float64).reshape(2, 3)
        marks = points if box is None else np.vstack([points, box])
        if not len(marks):
            raise PromptError("The prompt is empty; give a point or a box.")
        if not np.isfinite(marks).all():
            raise PromptError("A coordinate of the prompt is not finite; give finite millimetres or pixels.")
        index = self.slice_index
        if index is None:
            if not self.in_ras:
                raise PromptError("A prompt in pixels does not say its slice; give the slice's index.")
            index = geometry.slice_at(points[0] if len(points) else box.mean(axis=0), self.plane)
        pixels = geometry.to_slice(marks, self.plane, index) if self.in_ras else marks[:, :2]
        corners = pixels[len(points) :]
        box_xyxy = None if box is None else np.concatenate([corners.min(axis=0), corners.max(axis=0)])
        return index, PixelPrompt(pixels[: len(points)], self.labels, box_xyxy)


def kind_objection(prompt: PixelPrompt, model: str, takes_points: bool, takes_box: bool) -> str:
    """Why `model` cannot answer a prompt of this kind, one sentence; empty: it can."""
    if prompt.has_points and not takes_points:
        return f"{model} takes no points: draw a box, or use a model that takes points, such as vit_b."
    if prompt.has_box and not takes_box:
        return f"{model} takes no box: mark points, or use a model that takes boxes, such as vit_b."
    return ""


def _readonly(values: object, dtype: type) -> np.ndarray:
    array = np.array(values, dtype)
    array.flags.writeable = False
    return array
