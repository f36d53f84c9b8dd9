# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The protocol of the SAMM extension for 3D Slicer, release 1.1, so that it works against the graph unchanged.

REQ → REP, little-endian. A request is two frames, int32 command and payload; a reply is one frame:

  0 SET_IMAGE_SIZE        int32 r, g, y: the array's shape                              uint8 1
  1 SET_NTH_IMAGE         int32 n, R, G, Y, H, W, then H·W uint8: array[n, :, :]         uint8 1
  2 CALCULATE_EMBEDDINGS  int32 saveToLocal, loadLocal                                   uint8 1, the work follows
  3 INFERENCE             int32 n, view, x0, y0, x1, y1, count, count × (x, y) positive, count, count × (x, y) negative
                                                                                         H·W uint8 0/1
  4 MODEL_SELECTION       int32 index                                                    uint8 1
  5 AUTO_SEG              int32 x min, y min, x max, y max, n                            as INFERENCE on view 0

View 0 (Red) is array[n, :, :], 1 (Green) array[:, n, :], 2 (Yellow) array[:, :, n]; x is the slice's column, y its row.
The extension writes every reply over the slice, and its loop ends at a reply of another size. The reply to a prompt
that is refused is therefore the mask that was replied last for the slice: zeros before the first one, and outside of
the volume. A slice below 0 is counted from the last one, as the extension's arrays count. Only a request whose reply
has no size, as a malformed one, gets a uint8 0.

The extension owns its segmentation and has no undo command; see undo.py for the rule. Everything here runs on
the doors' thread. Knows neither ROS nor sockets.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from samm_core.errors import PromptError, SammError, VolumeError
from samm_core.geometry import Plane
from samm_core.mask_codec import MAX_SIDE
from samm_core.prompts import MAX_POINTS, PixelPrompt
from samm_core.sources.volume import MAX_VOXELS

from ...graph_actions import Done

MAX_FRAME_BYTES = 1 << 28
# By the protocol's index; the extension calls mobile_sam mobile_vit_t.
MODELS = ("vit_b", "vit_l", "vit_h", "mobile_sam", "medsam_vit_b")
_NO_BOX = -404
_DONE, _REFUSED = b"\1", b"\0"

Reply = Callable[[bytes], None]
Command = Callable[[bytes, Reply], None]


class SammActions(Protocol):
    """What the commands ask for; each call returns at once. actions.py carries it out over GraphActions."""

    def load_volume(self, voxels_kji: np.ndarray) -> None:
        """(K, J, I) uint8, of which nothing is changed any more."""

    def embed_all(self) -> None:
        """Embed every slice of the volume."""

    def select_model(self, name: str) -> None:
        """Answer with another model, if the graph has it."""

    def prompt(self, plane: Plane, index: int, prompt: PixelPrompt, done: Done[np.ndarray]) -> None:
        """done gets a mask, (H, W) bool, or None and why; once, before the extension gives up."""


class SammServer:
    """Has what the published server has: one array and one model, for all clients.

    With the identity as IJK-to-RAS, (r, g, y) is (K, J, I), so that Red is axial, Green coronal and Yellow sagittal.
    saveToLocal and loadLocal change nothing: storing embeddings is the graph's part.

    problem: gets the sentence of each refusal, which the protocol has no place for.
    """

    def __init__(self, actions: SammActions, problem: Callable[[str], None]) -> None:
        self._actions = actions
        self._problem = problem
        self.commands: dict[int, Command] = {
            0: self._set_image_size,
            1: self._set_nth_image,
            2: self._calculate_embeddings,
            3: self._inference,
            4: self._select_model,
            5: self._auto_seg,
        }
        self._voxels: np.ndarray | None = None
        # What the extension's segmentation holds: the masks that were replied.
        self._masks: np.ndarray | None = None
        self._missing: set[int] = set()
        self._is_shared = False

    def handle(self, frames: Sequence[bytes], reply: Reply) -> None:
        """Answer one request, now or later, exactly once; never raises."""
        try:
            if len(frames) != 2:
                raise PromptError(
                    f"A SAMM request is 2 frames, a command and its payload, not {len(frames)}."
                )
            (command,) = _integers(frames[0], 1)
            if command not in self.commands:
                raise PromptError(f"There is no SAMM command {command}; there are 0 to 5.")
            self.commands[command](frames[1], reply)
        except SammError as error:
            self._refuse(str(error), reply)
        except MemoryError:
            self._refuse("There is no memory for this volume; crop it.", reply)

    def _set_image_size(self, payload: bytes, reply: Reply) -> None:
        shape = _integers(payload, 3)
        if not all(1 <= side <= MAX_SIDE for side in shape) or math.prod(shape) > MAX_VOXELS:
            raise VolumeError(
                f"A volume of {shape} voxels is not taken; at most {MAX_VOXELS:,} are, {MAX_SIDE} a side."
            )
        # NumPy's zeros take no memory until slices are written to them.
        self._voxels, self._masks = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        self._missing = set(range(shape[0]))
        self._is_shared = False
        reply(_DONE)

    def _set_nth_image(self, payload: bytes, reply: Reply) -> None:
        index, *shape, rows, columns = _integers(payload[:24], 6)
        voxels = self._array()
        if (
            tuple(shape) != voxels.shape
            or (rows, columns) != voxels.shape[1:]
            or not 0 <= index < len(voxels)
        ):
            raise VolumeError(
                f"Slice {index} of {tuple(shape)}, {rows}×{columns}, is none of the volume {voxels.shape}."
            )
        if len(payload) != 24 + rows * columns:
            raise VolumeError(f"Slice {index} comes with {len(payload) - 24} bytes, not {rows * columns}.")
        if self._is_shared:
            self._voxels, self._is_shared = voxels.copy(), False
        self._voxels[index] = np.frombuffer(payload, np.uint8, offset=24).reshape(rows, columns)
        self._missing.discard(index)
        reply(_DONE)

    def _calculate_embeddings(self, payload: bytes, reply: Reply) -> None:
        _integers(payload, 2)
        voxels = self._array()
        if self._missing:
            raise VolumeError(f"{len(self._missing)} of {len(voxels)} slices have not come; send them first.")
        self._is_shared = True
        self._actions.load_volume(voxels)
        self._actions.embed_all()
        reply(_DONE)

    def _select_model(self, payload: bytes, reply: Reply) -> None:
        (index,) = _integers(payload, 1)
        if not 0 <= index < len(MODELS):
            raise PromptError(
                f"There is no SAMM model {index}; there are 0 to {len(MODELS) - 1}: {', '.join(MODELS)}."
            )
        self._actions.select_model(MODELS[index])
        reply(_DONE)

    def _inference(self, payload: bytes, reply: Reply) -> None:
        index, view, *corners, positives = _integers(payload[:28], 7)
        shape = self._slice_shape(view)
        after = 28 + 8 * positives
        if not 0 <= positives <= MAX_POINTS or len(payload) < after + 4:
            raise PromptError(f"The prompt claims {positives} positive points in {len(payload)} bytes.")
        (negatives,) = _integers(payload[after : after + 4], 1)
        if not 0 <= negatives <= MAX_POINTS or len(payload) != after + 4 + 8 * negatives:
            raise PromptError(f"The prompt claims {negatives} negative points in {len(payload)} bytes.")
        points = np.frombuffer(payload[28:after] + payload[after + 4 :], "<i4").reshape(-1, 2)
        labels = [1] * positives + [0] * negatives
        box = None if corners[0] == _NO_BOX else corners
        if box is None and not labels:
            self._show(view, index, np.zeros(shape, np.uint8), reply)
            return
        self._ask(view, index, points, labels, box, reply)

    def _auto_seg(self, payload: bytes, reply: Reply) -> None:
        *corners, index = _integers(payload, 5)
        self._ask(0, index, np.zeros((0, 2)), [], corners, reply)

    def _ask(
        self,
        view: int,
        index: int,
        points_xy: np.ndarray,
        labels: list[int],
        box_xyxy: list[int] | None,
        reply: Reply,
    ) -> None:
        voxels, shape = self._array(), self._slice_shape(view)
        if not 0 <= index < voxels.shape[view]:
            # The extension's arrays are Python's: it writes the reply for slice -1 over its last slice.
            wraps = -voxels.shape[view] <= index < 0
            shown = _slice_of(self._masks, view, index).tobytes() if wraps else bytes(math.prod(shape))
            self._refuse(f"There is no slice {index} in view {view} of {voxels.shape}.", reply, shown)
            return

        def done(mask: np.ndarray | None, why: str) -> None:
            if self._voxels is None or self._slice_shape(view) != shape or index >= self._voxels.shape[view]:
                # Another volume came meanwhile: this reply cannot be shown, but has the size that was asked for.
                self._refuse("The volume was replaced before the mask came.", reply, bytes(math.prod(shape)))
            elif mask is None or mask.shape != shape:
                why = why or f"The mask is {mask.shape} pixels, the slice {shape}."
                self._refuse(why, reply, _slice_of(self._masks, view, index).tobytes())
            else:
                self._show(view, index, mask.astype(np.uint8), reply)

        try:
            # As the published server does.
            box = None if box_xyxy is None else np.maximum(box_xyxy, 1)
            prompt = PixelPrompt(points_xy, labels, box)
        except PromptError as error:
            done(None, str(error))
            return
        self._actions.prompt(Plane(view), index, prompt, done)

    def _show(self, view: int, index: int, mask: np.ndarray, reply: Reply) -> None:
        """Reply a mask, (H, W) uint8, which the extension then holds."""
        if 0 <= index < self._masks.shape[view]:
            _slice_of(self._masks, view, index)[...] = mask
        reply(mask.tobytes())

    def _slice_shape(self, view: int) -> tuple[int, int]:
        """(rows, columns) of a view's slices; raises PromptError for a view that there is not."""
        if view not in (0, 1, 2):
            raise PromptError(f"There is no view {view}; there are 0 (Red), 1 (Green) and 2 (Yellow).")
        rows, columns = (side for axis, side in enumerate(self._array().shape) if axis != view)
        return rows, columns

    def _array(self) -> np.ndarray:
        if self._voxels is None:
            raise VolumeError("There is no volume; send its size and its slices first.")
        return self._voxels

    def _refuse(self, why: str, reply: Reply, data: bytes = _REFUSED) -> None:
        self._problem(f"SAMM: {why}")
        reply(data)


def _slice_of(array_kji: np.ndarray, view: int, index: int) -> np.ndarray:
    """A view's slice of an array, itself and no copy."""
    return array_kji[(slice(None),) * view + (index,)]


def _integers(data: bytes, count: int) -> tuple[int, ...]:
    if len(data) != 4 * count:
        raise PromptError(f"{len(data)} bytes came where {count} int32 belong.")
    return struct.unpack(f"<{count}i", data)
