# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is to be segmented, a row per structure; what came of it; and the CSV files of both."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ..errors import PromptError, SammError
from ..geometry import Plane
from ..prompts import PixelPrompt, segment_name_error
from ..sources.readers import PICTURE_SUFFIXES
from ..sources.window import WINDOW_PRESETS

ALL_PLANES = "all"
PLANE_NAMES = (*(plane.name.lower() for plane in Plane), ALL_PLANES)
COLUMNS = (
    "volume", "segment", "plane", "slice", "box", "points", "negative", "propagate", "box3d", "auto", "window",
)  # fmt: skip
DONE, EMPTY, REFUSED, FAILED, NOT_DONE = "done", "empty", "refused", "failed", "not done"

_TRUTH = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False, "": False}


@dataclass(frozen=True)
class Row:
    """One structure to segment.

    It is marked by a box or points on a slice, or by a box in space; or it is all that a slice, or a box of it, shows (auto).

    volume: absolute path. segment: the name; with auto, how the names begin. plane: one of PLANE_NAMES; "all", with a box
    in space, is all three. slice_index: None, with marks on a slice: the volume is a picture. box_xyxy: two opposite corners; points_xy, negative_xy: x, y; all in pixels of the slice.
    propagate: carry what the slice has through the volume. box_ras: R, A, S of two opposite corners, mm. window: a preset;
    empty: automatic. line: where it stands in a table, 0 for none.

    Raises PromptError for what contradicts itself; whether it fits the volume shows when that is read.
    """

    volume: str
    segment: str = "segment"
    plane: str = "axial"
    slice_index: int | None = None
    box_xyxy: tuple[float, ...] | None = None
    points_xy: tuple[tuple[float, float], ...] = ()
    negative_xy: tuple[tuple[float, float], ...] = ()
    propagate: bool = False
    box_ras: tuple[float, ...] | None = None
    auto: bool = False
    window: str = ""
    line: int = 0

    def __post_init__(self) -> None:
        if error := segment_name_error(self.segment):
            raise PromptError(error)
        if not self.segment:
            raise PromptError("The segment has no name; give one.")
        if self.plane not in PLANE_NAMES:
            raise PromptError(f"There is no plane {self.plane}; give one of {', '.join(PLANE_NAMES)}.")
        if self.window and self.window not in WINDOW_PRESETS:
            raise PromptError(
                f"There is no window preset {self.window}; there are {', '.join(WINDOW_PRESETS)}."
            )
        if self.auto and (self.points_xy or self.negative_xy):
            raise PromptError(
                "Auto looks for everything and takes no points; leave them out, or leave out auto."
            )
        ways = [self.has_prompt and not self.auto, self.box_ras is not None, self.auto]
        if sum(ways) != 1:
            given = "Nothing is marked" if not any(ways) else "More than one way of marking is given"
            raise PromptError(f"{given}; give a box or points on a slice, a 3-D box, or auto.")
        if self.propagate and (self.auto or not self.has_prompt):
            raise PromptError(
                "Only a box or points on a slice can be propagated; give those, or leave out propagate."
            )
        if self.plane == ALL_PLANES and self.box_ras is None:
            raise PromptError("Only a 3-D box is looked at in all planes; give axial, coronal or sagittal.")
        may_be_picture = self.volume.lower().endswith((*PICTURE_SUFFIXES, ".dcm"))
        if self.slice_index is None and self.box_ras is None and not may_be_picture:
            raise PromptError("The slice is missing; give its index in the plane.")
        if self.box_ras is not None and not np.isfinite(self.box_ras).all():
            raise PromptError(f"The 3-D box {self.box_ras} is not finite; give millimetres.")
        if self.has_prompt:
            self.prompt  # noqa: B018  it raises for a box without area, and for what is not finite

    @property
    def has_prompt(self) -> bool:
        return bool(self.box_xyxy or self.points_xy or self.negative_xy)

    @property
    def prompt(self) -> PixelPrompt:
        """The box and points on the slice. Raises PromptError."""
        points = [*self.points_xy, *self.negative_xy]
        labels = [1] * len(self.points_xy) + [0] * len(self.negative_xy)
        box = None
        if self.box_xyxy:
            (x0, y0, x1, y1) = self.box_xyxy
            box = np.array([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)])
        return PixelPrompt(points, labels, box)


@dataclass(frozen=True)
class Outcome:
    """What came of a row; of an auto row, of one of its segments.

    status: DONE; EMPTY: its mask has no voxel; REFUSED: it cannot be done; FAILED: it broke; NOT_DONE: the run ended first.
    sentence: where and why it stopped, or what is wrong. ml: millilitres. seconds: of the whole row.
    """

    line: int
    volume: str
    segment: str
    status: str
    sentence: str = ""
    voxels: int = 0
    ml: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, row: Row, status: str, sentence: str = "") -> Outcome:
        return cls(row.line, row.volume, row.segment, status, sentence)


def read_table(path: Path) -> tuple[list[Row], list[Outcome]]:
    """The rows of a CSV file, and what is refused of it: rows that are none, each in a sentence with its line.

    The separator is a comma, a semicolon or a tab. Paths are relative to the table's folder. Numbers in a cell are
    separated by blanks. Raises PromptError for a file that is no table, or whose header is not of COLUMNS.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise PromptError(f"{path} cannot be read ({reason}); give a CSV file.") from None
    first = text.split("\n", 1)[0]
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), skipinitialspace=True
    )
    _check_header(path, reader.fieldnames or [])
    rows: list[Row] = []
    refused: list[Outcome] = []
    taken: dict[tuple[str, str], int] = {}
    try:
        for cells in reader:
            line = reader.line_num
            cells = {name: value if name is None else (value or "").strip() for name, value in cells.items()}
            if not any(cells.values()):
                continue
            try:
                row = _row(cells, path.absolute().parent, line)
                former = taken.setdefault((row.volume, row.segment), line)
                if former != line:
                    raise PromptError(
                        f"The segment {row.segment} of {Path(row.volume).name} is in line {former} already; give another name."
                    )
            except SammError as error:
                refused.append(
                    Outcome(line, cells.get("volume", ""), cells.get("segment", ""), REFUSED, str(error))
                )
            else:
                rows.append(row)
    except csv.Error as error:
        raise PromptError(
            f"{path} is no CSV file (line {reader.line_num}: {error}); export it again."
        ) from None
    return rows, refused


def write_report(path: Path, outcomes: Iterable[Outcome]) -> None:
    """A CSV file, a line per outcome, in the order of the table's lines. Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Outcome))
        for outcome in sorted(outcomes, key=lambda each: each.line):
            cells = {field.name: getattr(outcome, field.name) for field in fields(Outcome)}
            cells["ml"], cells["seconds"] = f"{outcome.ml:.3f}", f"{outcome.seconds:.2f}"
            writer.writerow(cells.values())
    part.replace(path)


def _check_header(path: Path, names: Sequence[str]) -> None:
    known = ", ".join(COLUMNS)
    if unknown := [name for name in names if name not in COLUMNS]:
        raise PromptError(
            f"{path.name} has a column {unknown[0]!r}, which is not known; the columns are {known}."
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise PromptError(f"{path.name} has the column {twice[0]} twice; leave one out.")
    if missing := [name for name in ("volume", "segment") if name not in names]:
        raise PromptError(
            f"{path.name} has no column {missing[0]}; its first line has to name columns of {known}."
        )


def _row(cells: Mapping[str | None, str], folder: Path, line: int) -> Row:
    if None in cells:
        raise PromptError("It has more cells than the header; quote cells that hold the separator.")
    get = cells.get
    if not get("volume"):
        raise PromptError("The volume is missing; give its path.")
    return Row(
        volume=str((folder / get("volume")).resolve()),
        segment=get("segment", ""),
        plane=get("plane", "").lower() or "axial",
        slice_index=_slice_index(get("slice", "")),
        box_xyxy=_numbers("box", get("box", ""), 4),
        points_xy=_pairs("points", get("points", "")),
        negative_xy=_pairs("negative", get("negative", "")),
        propagate=_truth("propagate", get("propagate", "")),
        box_ras=_numbers("box3d", get("box3d", ""), 6),
        auto=_truth("auto", get("auto", "")),
        window=get("window", ""),
        line=line,
    )


def _slice_index(text: str) -> int | None:
    try:
        return int(text) if text else None
    except ValueError:
        raise PromptError(f"The slice is {text!r}; give a whole number.") from None


def _values(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split())
    except ValueError:
        raise PromptError(f"The cell {name} is {text!r}; give numbers with blanks between them.") from None


def _numbers(name: str, text: str, count: int) -> tuple[float, ...] | None:
    values = _values(name, text)
    if len(values) not in (0, count):
        raise PromptError(f"The cell {name} has {len(values)} numbers; give {count}.")
    return values or None


def _pairs(name: str, text: str) -> tuple[tuple[float, float], ...]:
    values = _values(name, text)
    if len(values) % 2:
        raise PromptError(f"The cell {name} has {len(values)} numbers; give x and y of each point.")
    return tuple(zip(values[::2], values[1::2], strict=True))


def _truth(name: str, text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise PromptError(f"The cell {name} is {text!r}; give yes or no.")
    return _TRUTH[text.lower()]
