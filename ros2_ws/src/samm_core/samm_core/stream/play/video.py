# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Video files, by the FFmpeg in OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2

from ...errors import FrameError
from ...sources.readers.content import open_regular
from .base import PlayedFrame, Player, require_sides, usable_rate

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ogv", ".ts")
_DEFAULT_HZ = 25.0


class Video(Player):
    """A video file; its pictures come as RGB, the right way up. Raises FrameError for what cannot be decoded."""

    def __init__(self, path: Path) -> None:
        self._path = Path(path).resolve()
        self.name = path.name
        capture = self._open()
        try:
            width, height = (
                int(capture.get(what)) for what in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
            )
            require_sides(self.name, width, height)
            code = int(capture.get(cv2.CAP_PROP_FOURCC))
            codec = "".join(chr(code >> shift & 0xFF) for shift in (0, 8, 16, 24)).strip("\0 ")
            self.rate = usable_rate(capture.get(cv2.CAP_PROP_FPS), _DEFAULT_HZ)
            # What the container says, which may be an estimate, or nothing.
            self.frame_count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) or None
        finally:
            capture.release()
        self.kind = (
            f"video ({codec if codec.isprintable() and codec else 'unknown codec'}, {width} x {height})"
        )

    def frames(self, start: int = 0) -> Iterator[PlayedFrame]:
        """See Player. A video that is cut short ends where its pictures end."""
        capture = self._open()
        stamp_s = -1 / self.rate
        try:
            # Not by setting the position, which is a guess in many containers.
            for _ in range(start):
                if not capture.grab():
                    return
            while True:
                there, bgr = capture.read()
                if not there:
                    return
                own_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                stamp_s = own_s if own_s > stamp_s else stamp_s + 1 / self.rate
                yield PlayedFrame(stamp_s, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        with os.fdopen(open_regular(self._path), "rb") as file:
            head = file.read(64)
        # FFmpeg goes by the content: a playlist would have it open other files, or addresses.
        text = head.removeprefix(b"\xef\xbb\xbf")
        if not head or all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in text):
            raise FrameError(f"{self.name} is {'text' if head else 'empty'} and no video; export it again.")
        try:
            capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        except cv2.error:
            capture = None
        if capture is None or not capture.isOpened():
            raise FrameError(f"{self.name} cannot be decoded as a video; export it again, as MP4 with H.264.")
        return capture
