# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What of a stream's images is worked on: a region of them, the right way round, in 8 bits; and the way back.

A pixel's coordinates are those of its centre, (0, 0) the first one's: x along a row, y down the rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from ..errors import FrameError
from ..sources.window import Window

AUTO = "auto"
WHOLE_IMAGE = "whole"
# The area of a picture is looked for in this many images: speckle and a moving scene leave parts of each one black.
LOOKED_AT = 8
# The longer side of what is worked on, in pixels: no model takes more, and a film's images then fit into memory.
LONGEST = 1024
# Of 255: what is brighter, on the average of some pixels, is no black; one alone may be a camera's noise.
_BLACK = 12
# Of the shorter side: those pixels; thinner things, such as text, are no picture; narrower gaps in one belong to it.
_NOISE, _THIN, _GAP = 1 / 100, 1 / 120, 1 / 24
# Of the image: a smaller area is no picture; about all of it needs no cutting.
_LEAST_SHARE, _WHOLE_SHARE = 0.05, 0.97
# Of its box: a picture that fills it is a rectangle with a dark corner.
_RECTANGLE_SHARE = 0.95
# Of the intensities of the first image, in 16 bits.
_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Region:
    """A rectangle of an image, in its pixels; it reaches from (x, y) to before (x + width, y + height)."""

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"


def parse_region(text: str) -> Region | Literal["auto"] | None:
    """The region that a text names: "x,y,width,height" in pixels, "auto"; "whole" or nothing: None. Raises FrameError."""
    words = text.strip().lower()
    if words in ("", WHOLE_IMAGE):
        return None
    if words == AUTO:
        return AUTO
    try:
        x, y, width, height = (int(word) for word in words.split(","))
    except ValueError:
        raise FrameError(
            f'The region "{text[:40]}" is none; give "x,y,width,height" in whole pixels, "{AUTO}" or "{WHOLE_IMAGE}".'
        ) from None
    if min(x, y) < 0 or min(width, height) < 1:
        raise FrameError(
            f'The region "{text[:40]}" is none; its x and y must be 0 or more, its width and height 1 or more.'
        )
    return Region(x, y, width, height)


class StreamView:
    """What is made of each image of one stream before it is worked on; images of another size begin anew.

    What is larger than LONGEST pixels is made smaller.

    region: what is kept; None: the whole image; "auto": the picture that lies in it, such as the fan of an ultrasound probe
    or the circle of an endoscope, is looked for in the first LOOKED_AT images, which are shown whole. What lies outside the
    picture then becomes black. flip_x, flip_y: mirror left and right, or top and bottom. deinterlace: of an interlaced
    video, keep the field of the even rows and interpolate the other rows. window: of images in 16 bits; None: percentiles
    of the first image that is not of one intensity, which hold until reset_window, as a window that breathes moves masks.
    Not thread-safe.
    """

    def __init__(
        self,
        region: Region | Literal["auto"] | None = None,
        flip_x: bool = False,
        flip_y: bool = False,
        deinterlace: bool = False,
        window: Window | None = None,
    ) -> None:
        self._wanted = region
        self._flip_x, self._flip_y = flip_x, flip_y
        self._deinterlace = deinterlace
        self._given_window = window
        self.reset()

    def reset(self) -> None:
        """Begin anew, as with the first image."""
        self._shape: tuple[int, int] | None = None
        self._region: Region | None = None
        self._outside: np.ndarray | None = None
        self._brightest: np.ndarray | None = None
        self._looked_at = 0
        self.found = ""
        self.reset_window()

    def reset_window(self) -> None:
        """Choose the window of 16 bits by the next image, unless one was given."""
        self._set_window(self._given_window)

    @property
    def region(self) -> Region | None:
        """What is kept of the images; None: none has come."""
        return self._region

    @property
    def window(self) -> Window | None:
        """The window of 16 bits; None: none is given, and none was needed."""
        return self._window

    @property
    def looks(self) -> bool:
        """Whether the picture is still looked for: the images have another size once it is found."""
        return self._wanted == AUTO and self._looked_at < LOOKED_AT

    def prepare(self, array: np.ndarray) -> np.ndarray:
        """What is worked on, (h, w) or (h, w, 3) uint8, contiguous; it may share memory with `array`, which stays as it is.

        array: (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB, as it came. Raises FrameError where the region lies outside.
        """
        shape = array.shape[:2]
        if shape != self._shape:
            self.reset()
            self._place(shape)
        if self._deinterlace:
            array = _one_field(array)
        if self.looks:
            self._look(array)
        region = self._region
        kept = array[region.y : region.y + region.height, region.x : region.x + region.width]
        if kept.dtype == np.uint16:
            kept = self._windowed(kept)
        if self._outside is not None:
            kept = kept.copy() if np.may_share_memory(kept, array) else kept
            kept[self._outside] = 0
        return self._scaled(self._mirrored(kept))

    def to_view(self, points_xy: np.ndarray) -> np.ndarray:
        """(N, 2) points of the image as it came, as points of what `prepare` makes of it: float64, maybe outside it."""
        region = self._require_region()
        points = np.array(points_xy, float).reshape(-1, 2) - (region.x, region.y)
        # Pixels reach half a pixel around their centres.
        return (self._flipped(points, region) + 0.5) * self._scale(region) - 0.5

    def to_image(self, points_xy: np.ndarray) -> np.ndarray:
        """(N, 2) points of what `prepare` makes, as points of the image as it came: float64."""
        region = self._require_region()
        points = (np.array(points_xy, float).reshape(-1, 2) + 0.5) / self._scale(region) - 0.5
        return self._flipped(points, region) + (region.x, region.y)

    def mask_to_image(self, mask: np.ndarray, image_shape: tuple[int, int]) -> np.ndarray:
        """A mask or label map (h, w) of what `prepare` makes, in an image of the (rows, columns) as it came; else 0.

        Raises FrameError for a mask of another size than the region, or an image of another size than those that come.
        """
        region = self._require_region()
        if tuple(image_shape[:2]) != self._shape:
            rows, columns = image_shape[:2]
            raise FrameError(
                f"The mask is for an image of {columns} x {rows} pixels, but the stream's have now "
                f"{self._shape[1]} x {self._shape[0]}; mark a newer one."
            )
        columns, rows = _size(region)
        if mask.shape != (rows, columns):
            raise FrameError(
                f"The mask has {mask.shape[1]} x {mask.shape[0]} pixels, but the region's has now {columns} x {rows}; mark a "
                "newer image."
            )
        mask = self._mirrored(_enlarged(mask, region))
        if mask.shape == self._shape:
            return np.ascontiguousarray(mask)
        whole = np.zeros(self._shape, mask.dtype)
        whole[region.y : region.y + region.height, region.x : region.x + region.width] = mask
        return whole

    @staticmethod
    def _scale(region: Region) -> np.ndarray:
        """(2,) of x and y: pixels of what is worked on, of one of the region."""
        return np.divide(_size(region), (region.width, region.height))

    def _scaled(self, kept: np.ndarray) -> np.ndarray:
        size = _size(self._region)
        if size == kept.shape[1::-1]:
            return np.ascontiguousarray(kept)
        return cv2.resize(kept, size, interpolation=cv2.INTER_AREA)

    def _require_region(self) -> Region:
        if self._region is None:
            raise FrameError("The stream has sent no image yet; wait for the first.")
        return self._region

    def _mirrored(self, array: np.ndarray) -> np.ndarray:
        """As OpenCV does it, several times faster than NumPy copies a mirrored view."""
        if not (self._flip_x or self._flip_y):
            return array
        axes = -1 if self._flip_x and self._flip_y else int(self._flip_x)
        return cv2.flip(array.view(np.uint8) if array.dtype == bool else array, axes).view(array.dtype)

    def _flipped(self, points: np.ndarray, region: Region) -> np.ndarray:
        if self._flip_x:
            points[:, 0] = region.width - 1 - points[:, 0]
        if self._flip_y:
            points[:, 1] = region.height - 1 - points[:, 1]
        return points

    def _place(self, shape: tuple[int, int]) -> None:
        rows, columns = shape
        region = self._wanted if isinstance(self._wanted, Region) else Region(0, 0, columns, rows)
        if region.x + region.width > columns or region.y + region.height > rows:
            raise FrameError(
                f"The region {region} does not lie in images of {columns} x {rows} pixels; give another one, or "
                f'"{AUTO}".'
            )
        self._shape, self._region = shape, region

    def _set_window(self, window: Window | None) -> None:
        self._window = window
        # Every intensity once, as a look-up is faster than arithmetic on every pixel.
        self._grey = window and window.to_uint8(np.arange(1 << 16))

    def _windowed(self, pixels: np.ndarray) -> np.ndarray:
        if self._window is None:
            low, high = (float(value) for value in np.percentile(pixels, _PERCENTILES))
            if low == high:
                low, high = float(pixels.min()), float(pixels.max())
            if low == high:
                return np.zeros(pixels.shape, np.uint8)
            self._set_window(Window(low, high))
        return self._grey[pixels]

    def _look(self, array: np.ndarray) -> None:
        grey = array if array.ndim == 2 else cv2.cvtColor(array, cv2.COLOR_RGB2GRAY)
        self._brightest = grey.copy() if self._brightest is None else np.maximum(self._brightest, grey)
        self._looked_at += 1
        if self._looked_at < LOOKED_AT:
            return
        self._region, self._outside, self.found = _find_picture(self._brightest)
        self._brightest = None


def _size(region: Region) -> tuple[int, int]:
    """Columns and rows of what is worked on."""
    scale = min(1.0, LONGEST / max(region.width, region.height))
    return max(1, round(region.width * scale)), max(1, round(region.height * scale))


def _enlarged(mask: np.ndarray, region: Region) -> np.ndarray:
    """A mask or label map of what is worked on, in the region's own pixels."""
    size = region.width, region.height
    if size == mask.shape[1::-1]:
        return mask
    if mask.dtype == bool:
        return cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR) > 127
    return cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)


def _one_field(array: np.ndarray) -> np.ndarray:
    """The even rows, and between them their means: bob, of the field that comes first."""
    whole = array.copy()
    odd = whole[1::2]
    above = array[:-1:2]
    below = array[2::2]
    between = len(below)
    odd[:between] = cv2.addWeighted(above[:between], 0.5, below, 0.5, 0) if between else odd[:between]
    # An even number of rows ends with one that has nothing below it.
    odd[between:] = above[between:]
    return whole


def _find_picture(image: np.ndarray) -> tuple[Region, np.ndarray | None, str]:
    """The largest bright area of (H, W): its box, what of the box lies outside it, and what was found, a sentence.

    The area is taken convex, as fans, circles and rectangles nearly are: dark structures inside belong to it.
    """
    rows, columns = image.shape
    whole = Region(0, 0, columns, rows)
    side = min(rows, columns)
    smooth = cv2.blur(image, (_odd(side * _NOISE),) * 2)
    if image.dtype == np.uint16:
        low, high = np.percentile(image, (0, _PERCENTILES[1]))
        bright = smooth > low + (high - low) * _BLACK / 255
    else:
        bright = smooth > _BLACK
    bright = _morphed(bright.astype(np.uint8), cv2.MORPH_CLOSE, side * _GAP)
    bright = _morphed(bright, cv2.MORPH_OPEN, side * _THIN)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=8)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])) if count > 1 else 0
    if not largest or stats[largest, cv2.CC_STAT_AREA] < _LEAST_SHARE * image.size:
        return whole, None, "No picture was found in the image, so all of it is taken."
    contours, _ = cv2.findContours(
        (labels == largest).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    hull = cv2.convexHull(np.concatenate(contours))
    inside = np.zeros(image.shape, np.uint8)
    cv2.fillConvexPoly(inside, hull, 1)
    share = float(inside.mean())
    if share > _WHOLE_SHARE:
        return whole, None, "The picture fills the image, so all of it is taken."
    x, y, width, height = cv2.boundingRect(hull)
    region = Region(x, y, width, height)
    outside = inside[y : y + height, x : x + width] == 0
    told = f"The picture was found at {region} (x, y, width, height); it is {100 * share:.0f} % of the image"
    if 1 - outside.mean() > _RECTANGLE_SHARE:
        return region, None, f"{told}."
    return region, outside, f"{told}, and what lies around it is made black."


def _morphed(area: np.ndarray, operation: int, size: float) -> np.ndarray:
    side = _odd(size)
    # A border of black, so that an area at the edge of the image is treated as one within it.
    wide = cv2.copyMakeBorder(area, side, side, side, side, cv2.BORDER_CONSTANT)
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (side, side))
    return cv2.morphologyEx(wide, operation, kernel)[side:-side, side:-side]


def _odd(size: float) -> int:
    return math.ceil(size) | 1
