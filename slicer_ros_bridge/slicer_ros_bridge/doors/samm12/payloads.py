# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What SAMM 1.2 sends in JSON: read, and refused where it is malformed. Pure functions; they run on the front's thread.

Pictures and masks are base64 of their bytes, row-major; pybase64 reads 1 MB of it some milliseconds sooner than the
standard library, which takes its place where it is missing. A refusal is an HTTP status and a JSON object with `error`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from samm_core.errors import SammError
from samm_core.geometry import Plane
from samm_core.mask_codec import MAX_SIDE
from samm_core.prompts import MAX_POINTS, PixelPrompt, Prompt, mask_prompt, prompt_on
from samm_core.sources.picture import picture_volume
from samm_core.sources.window import Window

from ...graph_actions import ModelState

try:
    from pybase64 import b64decode, b64encode
except ImportError:
    # package.xml does not name it: rosdep had no key for it.
    from base64 import b64decode, b64encode

# The extension has windowed its pictures already.
WINDOW = Window(0, 255)
MAX_TOTAL = 4096
_MAX_TEXT = 4096

Fields = Mapping[str, Any]


class Refused(Exception):
    """A request that is not carried out. status: of HTTP. fields: of the reply, `error` among them."""

    def __init__(self, status: int, error: str, **fields: Any) -> None:
        super().__init__(error)
        self.status, self.fields = status, {"error": error, **fields}


@dataclass(frozen=True, eq=False)
class Picture:
    """A slice that SAMM sent. uid: as the graph names it. pixels: (H, W) uint8, or (H, W, 3) where colours differ."""

    uid: str
    pixels: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.pixels.shape[:2]
        return rows, columns


@dataclass(frozen=True, eq=False)
class Marks:
    """A prompt as SAMM sends it.

    points_xy: (N, 2) pixels. labels: (N,), 1 or 0. box_xyxy: (4,) pixels. mask: (H, W) bool, which may hold nothing.
    text: empty: none.
    """

    points_xy: np.ndarray
    labels: np.ndarray
    box_xyxy: np.ndarray | None
    mask: np.ndarray | None
    text: str

    def on_slice(self, index: int, shape: tuple[int, int], model: ModelState) -> Prompt:
        """As the graph takes it, on an axial slice of `shape`.

        The graph's prompts hold no mask: it becomes a box and points, see mask_prompt. Raises Refused for a text and
        for a mask of another shape, and PromptError for an empty mask alone.
        """
        if self.text:
            raise Refused(500, f"{model.name} takes no text; mark points or a box.")
        self.check_mask(shape)
        marks = None
        if len(self.points_xy) or self.box_xyxy is not None:
            marks = PixelPrompt(self.points_xy, self.labels, self.box_xyxy)
        # SAMM sends what the chosen segment holds on this slice, which may be nothing: other marks do without it.
        if self.mask is not None and (self.mask.any() or marks is None):
            painted = mask_prompt(self.mask)
            marks = painted if marks is None else marks.joined(painted)
            if not model.takes_points and not len(self.points_xy):
                marks = PixelPrompt(box_xyxy=marks.box_xyxy)
        return prompt_on(Plane.AXIAL, index, marks)

    def check_mask(self, shape: tuple[int, int]) -> None:
        """Raises Refused for a mask of another size than its slice."""
        if self.mask is not None and self.mask.shape != shape:
            raise Refused(
                400, f"The mask is {self.mask.shape} pixels, the image {shape}; give one of its size."
            )


@dataclass(frozen=True, eq=False)
class Item:
    """A slice of a job. echo: what the reply has of it, unchanged. marks: None: it is to be embedded."""

    echo: dict[str, Any]
    picture: Picture
    marks: Marks | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    index: int
    item: Item


class MaskText:
    """A mask, (H, W) bool, on its way into a reply: kept as bits, and made base64 only while the reply is written."""

    def __init__(self, mask: np.ndarray) -> None:
        self.shape = mask.shape
        self._bits = np.packbits(mask)

    def __str__(self) -> str:
        pixels = np.unpackbits(self._bits, count=math.prod(self.shape))
        return b64encode(pixels).decode()

    def fields(self) -> dict[str, Any]:
        """As replies have it; its `data` is a MaskText until the reply is written."""
        return {"shape": list(self.shape), "data": self}


# What each request holds.


def no_fields(fields: Fields) -> None:
    """Of a request whose body is not read."""


def session_of(fields: Fields) -> str:
    return text(fields, "session_id")


def total_of(fields: Fields) -> int:
    return _integer(fields, "total", 1)


def frames_total_of(fields: Fields) -> int:
    """Of a video: one that is too long is told how long it may be."""
    if type(total := fields.get("total")) is int and total > MAX_TOTAL:
        raise Refused(400, f"A video has at most {MAX_TOTAL} frames.", max_frames=MAX_TOTAL)
    return total_of(fields)


def path_of(fields: Fields) -> str:
    return text(fields, "path")


def saved_of(fields: Fields) -> tuple[str, list[dict[str, Any]]]:
    """A folder, and what is to be saved in it: of each its embedding_id and what load gives back."""
    items = [
        {
            "embedding_id": text(item, "embedding_id"),
            **_echo(item, "slice_spec", "image_shape", "image_digest"),
        }
        for item in _objects(fields, "items")
    ]
    return text(fields, "path"), items


def embedding_of(fields: Fields) -> Picture:
    return picture_of(fields.get("image"))


def predict_of(fields: Fields) -> tuple[Picture | str, Marks]:
    """A picture, or the id of one's embedding; and the prompt on it."""
    marks = marks_of(fields)
    if "embedding_id" in fields:
        return text(fields, "embedding_id"), marks
    picture = picture_of(fields.get("image"))
    marks.check_mask(picture.shape)
    return picture, marks


def embedding_items_of(fields: Fields) -> list[Item]:
    return [
        Item(_echo(item, "key", "slice_spec", "image_shape", "image_digest"), picture_of(item.get("image")))
        for item in _objects(fields, "items")
    ]


def prediction_items_of(fields: Fields) -> list[Item]:
    items = []
    for item in _objects(fields, "items"):
        marks, picture = marks_of(item), picture_of(item.get("image"))
        marks.check_mask(picture.shape)
        items.append(Item(_echo(item, "key", "slice_spec"), picture, marks))
    return items


def frames_of(fields: Fields) -> list[Frame]:
    return [
        Frame(
            _integer(item, "frame_index", 0),
            Item(_echo(item, "key", "slice_spec"), picture_of(item.get("image"))),
        )
        for item in _objects(fields, "frames")
    ]


def run_of(fields: Fields) -> tuple[int, Marks, str]:
    """The frame that is marked, its prompt, and the direction."""
    prompt = fields.get("prompt")
    if not isinstance(prompt, dict):
        raise Refused(400, "`prompt` has to be an object.")
    direction = fields.get("direction", "both")
    if direction not in ("both", "forward", "backward"):
        raise Refused(400, "`direction` has to be both, forward or backward.")
    marks = marks_of(prompt)
    if marks.mask is not None and (len(marks.points_xy) or marks.box_xyxy is not None or marks.text):
        raise Refused(400, "A mask is a prompt alone; leave the points, the box and the text out.")
    if marks.text and len(marks.points_xy):
        raise Refused(400, "A text takes no points beside it; leave them or the text out.")
    return _integer(prompt, "frame_index", 0), marks, direction


# What they are made of.


def picture_of(image: Any) -> Picture:
    """Of `{"shape": [H, W, 3], "data": base64}`."""
    if not isinstance(image, dict):
        raise Refused(400, "`image` has to be an object with shape and data.")
    shape = image.get("shape")
    if not (_is_shape(shape, 3) and shape[2] == 3):
        raise Refused(400, "The image's `shape` has to be [rows, columns, 3].")
    pixels = _bytes(image, tuple(shape))
    grey = pixels[..., 0]
    # Three equal channels, as SAMM sends, are a third as much to pass on.
    if (grey == pixels[..., 1]).all() and (grey == pixels[..., 2]).all():
        pixels = np.ascontiguousarray(grey)
    try:
        return Picture(picture_volume(pixels, window=WINDOW).uid, pixels)
    except SammError as error:
        raise Refused(400, str(error)) from None


def marks_of(fields: Fields) -> Marks:
    """Raises Refused unless there is a point, a box, a mask or a text in it."""
    points, labels = fields.get("points", []), fields.get("labels", [])
    if not (isinstance(points, list) and isinstance(labels, list) and len(points) == len(labels)):
        raise Refused(400, "`points` and `labels` have to be lists of the same length.")
    if len(points) > MAX_POINTS:
        raise Refused(400, f"There are {len(points)} points; at most {MAX_POINTS} are taken.")
    if not all(_are_numbers(point, 2) for point in points):
        raise Refused(400, "Each point has to be [x, y].")
    if not all(type(label) is int and label in (0, 1) for label in labels):
        raise Refused(400, "Each label has to be 1 or 0.")
    box, words = fields.get("box"), fields.get("text")
    if box is not None and not (_are_numbers(box, 4) and box[0] < box[2] and box[1] < box[3]):
        raise Refused(400, "The box has to be [x0, y0, x1, y1] with an area.")
    if words is not None and not (isinstance(words, str) and words.strip() and len(words) <= _MAX_TEXT):
        raise Refused(
            400, f"The text has to be a string that is not blank, of at most {_MAX_TEXT} characters."
        )
    mask = None if fields.get("mask") is None else _mask_of(fields["mask"])
    if not points and box is None and mask is None and words is None:
        raise Refused(400, "The prompt is empty; give a point, a box, a mask or a text.")
    return Marks(
        np.array(points, np.float64).reshape(-1, 2),
        np.array(labels, np.uint8),
        None if box is None else np.array(box, np.float64),
        mask,
        words or "",
    )


def _mask_of(mask: Any) -> np.ndarray:
    if not (isinstance(mask, dict) and _is_shape(mask.get("shape"), 2)):
        raise Refused(400, "`mask` has to be an object with shape [rows, columns] and data.")
    pixels = _bytes(mask, tuple(mask["shape"]))
    if pixels.max() > 1:
        raise Refused(400, "The mask has to hold 0 and 1 alone.")
    return pixels.astype(bool)


def _bytes(fields: Fields, shape: tuple[int, ...]) -> np.ndarray:
    """The uint8 array of a shape that `data` is."""
    encoded, expected = fields.get("data"), math.prod(shape)
    if not isinstance(encoded, str):
        raise Refused(400, "`data` has to be a base64 string.")
    # Before it is decoded: its length is known from the characters.
    if len(encoded) != 4 * math.ceil(expected / 3):
        actual = len(encoded) * 3 // 4
        raise Refused(400, f"{shape} takes {expected} bytes of data.", expected=expected, actual=actual)
    try:
        data = b64decode(encoded, validate=True)
    except ValueError as error:
        raise Refused(400, f"`data` is no base64: {error}.") from None
    if len(data) != expected:
        raise Refused(400, f"{shape} takes {expected} bytes of data.", expected=expected, actual=len(data))
    return np.frombuffer(data, np.uint8).reshape(shape)


def text(fields: Fields, name: str) -> str:
    """A string that is not empty."""
    value = fields.get(name)
    if not (isinstance(value, str) and value and len(value) <= _MAX_TEXT):
        raise Refused(400, f"`{name}` has to be a string of 1 to {_MAX_TEXT} characters.")
    return value


def _integer(fields: Fields, name: str, least: int) -> int:
    value = fields.get(name)
    if type(value) is not int or not least <= value <= MAX_TOTAL:
        raise Refused(400, f"`{name}` has to be a whole number from {least} to {MAX_TOTAL}.")
    return value


def _objects(fields: Fields, name: str) -> list[dict[str, Any]]:
    value = fields.get(name)
    if not (isinstance(value, list) and value and all(isinstance(each, dict) for each in value)):
        raise Refused(400, f"`{name}` has to be a list of objects that is not empty.")
    return value


def _echo(fields: Fields, *names: str) -> dict[str, Any]:
    """The fields that are sent back unchanged. Each has to be there; its value is not looked at."""
    if missing := [name for name in names if name not in fields]:
        raise Refused(400, f"`{missing[0]}` is missing.")
    return {name: fields[name] for name in names}


def _is_shape(value: Any, length: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == length
        and all(type(side) is int and 1 <= side <= MAX_SIDE for side in value)
    )


def _are_numbers(value: Any, length: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == length
        and all(type(number) in (int, float) and abs(number) < 1e9 for number in value)
    )
