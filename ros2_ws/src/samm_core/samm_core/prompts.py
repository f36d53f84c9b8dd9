# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Prompts: what a user marks in the world or on a slice, and the pixels of it that a model decodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .errors import PromptError
from .geometry import Plane, VolumeGeometry

MAX_POINTS = 1024
# Characters in the name of a segment or a client.
MAX_NAME = 255
# Points that stand for a scribble; for the inside of a lasso; for its bays.
_SCRIBBLE_POINTS, _LASSO_POINTS, _BAY_POINTS = 8, 3, 2
# Of the slice's longer side, from one point of a scribble to the next.
_SCRIBBLE_STEP = 1 / 32
# A further point inside is as deep as this share of the deepest, and a bay as this share of the box's shorter side and so
# many pixels.
_LESS_DEEP, _BAY_DEPTH, _BAY_PIXELS = 0.5, 0.1, 2.0
# Pixels.
_FAR_OFF = 1e6
# A byte in a message.
MAX_CHOICE = 255
# Rows and columns of a mask prompt: SAM's prompt encoder takes masks of this size alone.
MASK_INPUT_SHAPE = (256, 256)


def _no_points() -> np.ndarray:
    return np.zeros((0, 2), np.float32)


def _no_labels() -> np.ndarray:
    return np.zeros(0, np.uint8)


@dataclass(frozen=True, eq=False)
class PixelPrompt:
    """Points and a box on one slice, at least one of them, and a mask beside them.

    points_xy: (N, 2) float32 pixels, x the column and y the row; (0, 0) is the centre of the first pixel.
    labels: (N,) uint8, 1 for a point that the mask must hold, 0 for one that it must leave out.
    box_xyxy: (4,) float32 pixels, x min, y min, x max, y max; or None.
    mask_input: (256, 256) float32 logits over the encoder's padded input, as an earlier result's low_res_logits has
        them; or None.
    choice: which of the masks that a model proposes is meant: 0 the best by the model's own score, 1 the second best, …

    Raises PromptError for anything else: wrong shapes, NaN, other labels, an empty or reversed box.
    """

    points_xy: np.ndarray = field(default_factory=_no_points)
    labels: np.ndarray = field(default_factory=_no_labels)
    box_xyxy: np.ndarray | None = None
    mask_input: np.ndarray | None = None
    choice: int = 0

    def __post_init__(self) -> None:
        _check_choice(self.choice)
        points = _checked_points(self.points_xy)
        box = None if self.box_xyxy is None else _checked_box(self.box_xyxy)
        if box is None and not len(points):
            raise PromptError("The prompt is empty; give a point or a box.")
        object.__setattr__(self, "points_xy", points)
        object.__setattr__(self, "labels", _checked_labels(self.labels, len(points)))
        object.__setattr__(self, "box_xyxy", box)
        if self.mask_input is not None:
            object.__setattr__(self, "mask_input", _checked_mask_input(self.mask_input))

    @property
    def has_points(self) -> bool:
        return len(self.points_xy) > 0

    @property
    def has_box(self) -> bool:
        return self.box_xyxy is not None

    @property
    def has_mask(self) -> bool:
        return self.mask_input is not None

    def joined(self, other: PixelPrompt) -> PixelPrompt:
        """This prompt with the points of another on the same slice, and with its box where this one has none."""
        return replace(
            self,
            points_xy=np.concatenate([self.points_xy, other.points_xy]),
            labels=np.concatenate([self.labels, other.labels]),
            box_xyxy=self.box_xyxy if self.has_box else other.box_xyxy,
        )

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

    slice_index: of the slice. None takes the slice that the first point, or the box's centre, lies on; RAS only.
    in_ras: whether points and box are RAS millimetres; else they are pixels x, y, and the third number is not read.
    points: (N, 3) float64. labels: (N,), 1 (positive) or 0 (negative).
    box: (2, 3) float64, two opposite corners, or None.
    choice: as PixelPrompt's; raises PromptError for one that cannot be.
    """

    plane: Plane
    slice_index: int | None
    in_ras: bool
    points: np.ndarray
    labels: np.ndarray
    box: np.ndarray | None = None
    choice: int = 0

    def __post_init__(self) -> None:
        _check_choice(self.choice)

    def on_slice(self, geometry: VolumeGeometry) -> tuple[int, PixelPrompt]:
        """The slice's index and the prompt in its pixels.

        Raises PromptError for a prompt outside the volume, off the slice, or malformed.
        """
        marks, count = self._marks()
        index = self.slice_index
        if index is None:
            if not self.in_ras:
                raise PromptError("A prompt in pixels does not say its slice; give the slice's index.")
            index = geometry.slice_at(marks[0] if count else marks.mean(axis=0), self.plane)
        pixels = geometry.to_slice(marks, self.plane, index) if self.in_ras else marks[:, :2]
        return index, self._of_pixels(pixels, count)

    def in_pixels(self) -> PixelPrompt:
        """The prompt in pixels of its image, whichever that is. Raises PromptError for one in RAS, or malformed."""
        if self.in_ras:
            raise PromptError("The prompt is in RAS millimetres, which the image does not have; give pixels.")
        marks, count = self._marks()
        return self._of_pixels(marks[:, :2], count)

    def _marks(self) -> tuple[np.ndarray, int]:
        """The points and then the box's corners, (N, 3) float64, and how many points there are."""
        points = np.asarray(self.points, np.float64).reshape(-1, 3)
        box = None if self.box is None else np.asarray(self.box, np.float64).reshape(2, 3)
        marks = points if box is None else np.vstack([points, box])
        if not len(marks):
            raise PromptError("The prompt is empty; give a point or a box.")
        if not np.isfinite(marks).all():
            raise PromptError("A coordinate of the prompt is not finite; give finite millimetres or pixels.")
        return marks, len(points)

    def _of_pixels(self, pixels: np.ndarray, count: int) -> PixelPrompt:
        corners = pixels[count:]
        box_xyxy = np.concatenate([corners.min(axis=0), corners.max(axis=0)]) if len(corners) else None
        return PixelPrompt(pixels[:count], self.labels, box_xyxy, choice=self.choice)


def pixel_box(plane: Plane, slice_index: int, x0: float, y0: float, x1: float, y1: float) -> Prompt:
    """A box in pixels of a slice, by two opposite corners."""
    return Prompt(
        plane, slice_index, False, np.zeros((0, 3)), _no_labels(), np.array([(x0, y0, 0), (x1, y1, 0)])
    )


def pixel_points(
    plane: Plane,
    slice_index: int,
    positive: Sequence[tuple[float, float]],
    negative: Sequence[tuple[float, float]] = (),
) -> Prompt:
    """Points in pixels of a slice, x the column and y the row."""
    points = np.array([(x, y, 0.0) for x, y in (*positive, *negative)])
    labels = np.array([1] * len(positive) + [0] * len(negative), np.uint8)
    return Prompt(plane, slice_index, False, points, labels)


def pixel_prompt(
    plane: Plane,
    slice_index: int,
    points_xy: np.ndarray,
    labels: np.ndarray,
    box_xyxy: np.ndarray | None,
    choice: int = 0,
) -> Prompt:
    """A Prompt in pixels of a slice. points_xy: (N, 2). labels: (N,) 1 or 0. box_xyxy: (4,) or None.

    Nothing is checked but the shapes: SND_INF refuses what is no prompt.
    """

    def with_z(xy: np.ndarray) -> np.ndarray:
        xy = np.asarray(xy, np.float64).reshape(-1, 2)
        return np.hstack([xy, np.zeros((len(xy), 1))])

    return Prompt(
        plane=plane,
        slice_index=slice_index,
        in_ras=False,
        points=with_z(points_xy),
        labels=np.asarray(labels, np.uint8),
        box=None if box_xyxy is None else with_z(box_xyxy),
        choice=choice,
    )


def prompt_on(plane: Plane, slice_index: int, marks: PixelPrompt) -> Prompt:
    """What was marked in pixels, on that slice; without a mask_input."""
    return pixel_prompt(plane, slice_index, marks.points_xy, marks.labels, marks.box_xyxy, marks.choice)


def scribble_prompt(polyline_xy: ArrayLike, shape: tuple[int, int], positive: bool = True) -> PixelPrompt:
    """A line drawn over a structure, or with positive=False over what is none: up to 8 points, spread evenly along it.

    polyline_xy: (N, 2) pixels, N from 1. shape: rows and columns of the slice; what is drawn beyond it is not read.
    Raises PromptError for a line that is none, or off the slice.
    """
    line = _checked_line(polyline_xy, 1, "scribble")
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    # So fine that a part of half a pixel on the slice is found.
    at = np.linspace(0, lengths[-1], 2 + min(int(4 * lengths[-1]), 100_000))
    places = np.stack([np.interp(at, lengths, line[:, axis]) for axis in (0, 1)], axis=1)
    places = places[_on_slice(places, shape)]
    if not len(places):
        raise PromptError("The scribble lies off the slice; draw it on the slice.")
    drawn = lengths[-1] * len(places) / len(at)
    count = int(min(_SCRIBBLE_POINTS, 1 + drawn / (_SCRIBBLE_STEP * max(shape))))
    # In the middle of equal parts: the ends of a line are where the hand slips.
    points = places[((np.arange(count) + 0.5) / count * len(places)).astype(int)]
    return PixelPrompt(points, np.full(count, int(positive), np.uint8))


def lasso_prompt(polygon_xy: ArrayLike, shape: tuple[int, int]) -> PixelPrompt:
    """A line drawn around a structure: the box around it, the deepest points inside, and, negative, those in its bays.

    polygon_xy: (N, 2) pixels, N from 3, closed from the last to the first. shape: rows and columns of the slice. Raises
    PromptError for a line that is none, or that encloses no pixel of the slice.
    """
    import cv2  # Slicer's Python, which imports this module too, has none

    polygon = _checked_line(polygon_xy, 3, "lasso")
    corners = np.rint(polygon).astype(np.int32)
    inside = cv2.fillPoly(np.zeros(shape, np.uint8), [corners], 1)
    if not inside.any():
        raise PromptError("The lasso encloses nothing of the slice; draw it around the structure.")
    return _marks_around(inside, cv2.convexHull(corners))


def mask_prompt(mask: np.ndarray) -> PixelPrompt:
    """A mask, (H, W) bool, as the marks of a lasso around it: what a model gets that takes no masks.

    Raises PromptError for an empty one.
    """
    import cv2

    inside = np.asarray(mask, bool).astype(np.uint8)
    if not inside.any():
        raise PromptError("The mask is empty; paint the structure, or mark it by a point or a box.")
    return _marks_around(inside, cv2.convexHull(cv2.findNonZero(inside)))


def _marks_around(inside: np.ndarray, hull_xy: np.ndarray) -> PixelPrompt:
    """inside: (H, W) uint8, 1 in the structure. hull_xy: the corners of what is convex around it, as OpenCV has them."""
    import cv2

    ys, xs = np.nonzero(inside)
    low, high = np.array([xs.min(), ys.min()]) - 0.5, np.array([xs.max(), ys.max()]) + 0.5
    hull = cv2.fillConvexPoly(np.zeros(inside.shape, np.uint8), hull_xy, 1)
    boxed, bays = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1], np.zeros(inside.shape, np.uint8)
    bays[boxed] = hull[boxed] & (1 - inside[boxed])
    positive = _deepest(inside, _LASSO_POINTS, 0.0)
    negative = _deepest(bays, _BAY_POINTS, max(_BAY_PIXELS, _BAY_DEPTH * (high - low).min()))
    labels = np.array([1] * len(positive) + [0] * len(negative), np.uint8)
    return PixelPrompt(np.array(positive + negative), labels, np.concatenate([low, high]))


def _deepest(area: np.ndarray, count: int, least: float) -> list[tuple[int, int]]:
    """Up to `count` pixels (x, y) of an area, (H, W) uint8, far from its border, the deepest first.

    None lies in the circle that fits around another. least: pixels from the border that each has at least.
    """
    import cv2

    depth = cv2.distanceTransform(np.pad(area, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    least = max(least, _LESS_DEEP * float(depth.max()))
    ys, xs = np.nonzero(depth >= max(least, 1e-6))
    depths = depth[ys, xs]
    found: list[tuple[int, int]] = []
    while len(found) < count and len(xs):
        deepest = depths.argmax()
        x, y, reach = xs[deepest], ys[deepest], depths[deepest]
        found.append((int(x), int(y)))
        left = np.hypot(xs - x, ys - y) >= reach
        ys, xs, depths = ys[left], xs[left], depths[left]
    return found


def prompt_kind_error(
    prompt: PixelPrompt, model: str, takes_points: bool, takes_box: bool, takes_mask: bool = False
) -> str:
    """Why `model` does not take a prompt of this kind, in one sentence; empty: it does."""
    if prompt.has_points and not takes_points:
        return f"{model} takes no points: draw a box, or use a model that takes points, such as lite_medsam."
    if prompt.has_box and not takes_box:
        return f"{model} takes no box: mark points, or use a model that takes boxes, such as vit_b."
    if prompt.has_mask and not takes_mask:
        return f"{model} takes no mask here: leave mask_input out, or use vit_b on the torch backend."
    return ""


def segment_name_error(name: str) -> str:
    """Why a segment cannot have this name, in one sentence; empty: it can. No name stands for the active segment."""
    # A line end in a name would begin a new key in the header of a file.
    return _name_error("A segment", name)


def client_name_error(name: str) -> str:
    """Why a client cannot have this name, in one sentence; empty: it can."""
    return _name_error("A client", name)


def _name_error(what: str, name: str) -> str:
    if len(name) > MAX_NAME:
        return f"{what} cannot be named {name[:20]!r}…, {len(name)} characters; give at most {MAX_NAME}."
    if not name.isprintable():
        return f"{what} cannot be named {name!r}; give a printable name."
    return ""


def _checked_line(given: ArrayLike, least: int, what: str) -> np.ndarray:
    """(N, 2) float64. Raises PromptError for anything else, and for fewer points than `least`."""
    line = np.asarray(given, np.float64)
    if line.ndim != 2 or line.shape[1] != 2 or len(line) < least:
        raise PromptError(f"A {what} of the shape {line.shape} is none; give {least} or more rows of x, y.")
    if not (np.abs(line) <= _FAR_OFF).all():
        raise PromptError(
            f"A point of the {what} is not finite, or far off any slice; give x and y in pixels."
        )
    return line


def _on_slice(points_xy: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(N,) bool. A pixel reaches half a pixel around its centre."""
    return ((points_xy >= -0.5) & (points_xy <= np.array(shape[::-1]) - 0.5)).all(axis=1)


def _checked_points(given: ArrayLike) -> np.ndarray:
    points = _readonly(given, np.float32) if np.size(given) else _no_points()
    if points.ndim != 2 or points.shape[1] != 2:
        raise PromptError(f"Points have the shape {points.shape}; give one row of x, y per point.")
    if len(points) > MAX_POINTS:
        raise PromptError(f"The prompt has {len(points)} points; give at most {MAX_POINTS}.")
    if not np.isfinite(points).all():
        raise PromptError("A point of the prompt is not finite; give x and y in pixels.")
    return points


def _checked_labels(given: ArrayLike, count: int) -> np.ndarray:
    labels = np.asarray(given)
    if labels.shape != (count,):
        raise PromptError(f"There are {labels.size} labels for {count} points; give one label per point.")
    if not np.isin(labels, (0, 1)).all():
        raise PromptError(f"The labels are {labels.tolist()}; a label is 1 (positive) or 0 (negative).")
    return _readonly(labels, np.uint8)


def _checked_box(given: ArrayLike) -> np.ndarray:
    box = _readonly(given, np.float32)
    if box.shape != (4,):
        raise PromptError(f"The box has the shape {box.shape}; give x min, y min, x max, y max.")
    if not np.isfinite(box).all():
        raise PromptError("The box is not finite; give x min, y min, x max, y max in pixels.")
    if box[2] <= box[0] or box[3] <= box[1]:
        raise PromptError(f"The box {box.tolist()} has no area; x max and y max must exceed x min and y min.")
    return box


def _check_choice(choice: int) -> None:
    if not 0 <= choice <= MAX_CHOICE:
        raise PromptError(
            f"There is no choice {choice}; give 0 for the best mask, 1 for the second best, and so on."
        )


def _checked_mask_input(given: ArrayLike) -> np.ndarray:
    logits = _readonly(given, np.float32)
    if logits.shape != MASK_INPUT_SHAPE:
        raise PromptError(
            f"The mask_input has the shape {logits.shape}; give logits of the shape {MASK_INPUT_SHAPE}."
        )
    if not np.isfinite(logits).all():
        raise PromptError("A value of mask_input is not finite; give logits, such as an earlier result's.")
    return logits


def _readonly(values: ArrayLike, dtype: DTypeLike) -> np.ndarray:
    """A copy of `values` that cannot be written to."""
    with np.errstate(
        over="ignore"
    ):  # a value too large for the type becomes infinite, which the caller refuses
        array = np.array(values, dtype)
    array.flags.writeable = False
    return array
