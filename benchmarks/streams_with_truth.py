# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Live streams whose objects are known on every frame: a moving oblique plane through a volume with labels.

The plane trembles, the gain changes, and there is noise. In some streams the body breathes and beats; in others an object
leaves the view, by a shift of the plane within itself or across, and comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

from samm_core.geometry import Plane
from samm_core.sources.volume import Volume, read_volume
from samm_core.stream.frames import Frame

from .labelled import Pair, find_pairs, read_labels

RATE_HZ = 30.0
# Seconds of each stream.
SECONDS = 10.0
# Pixels of a side that are sampled; larger frames are these, enlarged. The volumes are coarser still.
_SAMPLED = 256
# Of an object on a frame, at 256 pixels a side: with fewer it is not in view.
LEAST_PIXELS = 60


@dataclass(frozen=True)
class Path3D:
    """How the plane moves about its start. Millimetres and degrees; each (amplitude, periods a stream).

    across: along its normal. x, y: within itself. turn: within itself. tilt: about its own x.
    """

    across: tuple[float, float] = (0.0, 1.0)
    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)
    turn: tuple[float, float] = (0.0, 1.0)
    tilt: tuple[float, float] = (0.0, 1.0)
    # Away and back: (mm across, mm in x, first second, last second).
    away: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Plan:
    """One stream.

    volume: the image's file name. labels: those that are objects. path: of the plane, from the middle of the first object,
    shifted by (across, x, y) mm. width: mm of the view. side: (rows, columns) of frames. breath, beat: mm. noise: grey
    values. gain: share.
    """

    name: str
    volume: str
    labels: tuple[int, ...]
    path: Path3D
    width: float = 220.0
    side: tuple[int, int] = (320, 320)
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    breath: float = 0.0
    beat: float = 0.0
    noise: float = 6.0
    gain: float = 0.2
    seconds: float = SECONDS
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Stream:
    """Frames and, by object, the truth: (frames, H, W) bool. in_view: (frames,) bool by object."""

    plan: Plan
    frames: list[Frame]
    truth: dict[str, np.ndarray] = field(default_factory=dict)

    def in_view(self, name: str) -> np.ndarray:
        """(frames,) bool: whether enough of an object is seen."""
        rows, columns = self.plan.side
        least = LEAST_PIXELS * (max(rows, columns) / 256) ** 2
        return self.truth[name].sum(axis=(1, 2)) >= least


_SWEEP = Path3D(across=(21, 0.75), x=(10, 1.5), y=(6, 1.0), turn=(6, 1.0), tilt=(3, 1.5))
_SHORT_SWEEP = Path3D(across=(6, 1.0), x=(10, 1.5), y=(6, 1.0), turn=(6, 1.0), tilt=(2, 1.5))
_PAN = Path3D(across=(2, 2.0), x=(35, 1.5), y=(20, 2.0), turn=(12, 1.0))
_HELD = Path3D(across=(2, 1.0), x=(4, 2.0), y=(4, 1.5), turn=(2, 1.0))
_CT, _MR, _BRAIN = "ct_sm.nii.gz", "mr_sm.nii.gz", "brain1_image.nrrd"
# Its label is whole there.
_TUMOUR = (8.5, 0.0, 0.0)

PLANS = (
    Plan("CT sweep", _CT, (5, 6), _SWEEP, width=300, side=(400, 512)),
    Plan("CT kidney sweep", _CT, (3,), _SWEEP, width=180, seed=1),
    Plan("CT pan", _CT, (1,), _PAN, width=220, seed=2),
    Plan("CT breathing", _CT, (3, 1), _HELD, width=200, breath=9, beat=2, seed=3),
    Plan("MR sweep", _MR, (5,), _SHORT_SWEEP, width=300, side=(480, 640), seed=4),
    Plan("MR breathing", _MR, (5, 2), _HELD, width=280, breath=9, beat=2, seed=5),
    Plan("MR pan", _MR, (1,), _PAN, width=220, seed=6),
    Plan("brain sweep", _BRAIN, (1,), _SHORT_SWEEP, 150, (256, 256), _TUMOUR, seed=7),
    Plan(
        "brain, out and back",
        _BRAIN,
        (1,),
        Path3D(turn=(8, 1), away=(0, 95, 3, 6.5)),
        130,
        shift=_TUMOUR,
        seed=8,
    ),
    Plan("CT, out and back", _CT, (1,), Path3D(y=(8, 1), away=(0, -190, 3, 6.5)), width=200, seed=9),
    Plan("CT, across and back", _CT, (3,), Path3D(x=(6, 1), away=(52, 0, 3, 6.5)), width=180, seed=10),
    Plan(
        "brain, across and back",
        _BRAIN,
        (1,),
        Path3D(x=(6, 1), away=(40, 0, 3, 6.5)),
        150,
        shift=_TUMOUR,
        seed=11,
    ),
)

# Streams that no limit of the tracker was chosen on.
UNSEEN = (
    Plan(
        "CT stomach sweep",
        _CT,
        (6,),
        Path3D(across=(-18, 0.75), x=(-8, 1), y=(10, 1.5), turn=(-8, 1), tilt=(-3, 1)),
        200,
        seed=21,
    ),
    Plan(
        "CT right kidney pan",
        _CT,
        (2,),
        Path3D(across=(-2, 2), x=(-30, 1), y=(25, 1.5), turn=(-10, 1.5)),
        220,
        (480, 480),
        seed=22,
    ),
    Plan("MR kidney breathing", _MR, (3,), _HELD, 160, breath=12, beat=3, seed=23),
    Plan(
        "brain, fast pan",
        _BRAIN,
        (1,),
        Path3D(x=(20, 3), y=(12, 2), turn=(10, 2)),
        150,
        shift=_TUMOUR,
        seed=24,
    ),
    Plan("CT liver, out and back", _CT, (5,), Path3D(turn=(6, 1), away=(0, 330, 4, 8)), 300, seed=25),
    Plan("CT right kidney, across", _CT, (2,), Path3D(y=(6, 1), away=(50, 0, 4, 8)), 180, seed=26),
)


def streams(folder: Path, plans: tuple[Plan, ...] = PLANS) -> Iterator[Stream]:
    """The streams that a folder has the volumes of, one after the other: each takes up to 300 MB."""
    pairs = {pair.image.name: pair for pair in find_pairs(folder)}
    for plan in plans:
        if plan.volume in pairs:
            yield made(plan, pairs[plan.volume])


def made(plan: Plan, pair: Pair) -> Stream:
    """One stream."""
    volume = read_volume(pair.image)
    labels = read_labels(pair.labels, volume)
    return Sampler(plan, volume, labels, pair.names).stream()


class Sampler:
    """Samples the planes of one stream."""

    def __init__(self, plan: Plan, volume: Volume, labels: np.ndarray, names: dict[int, str]) -> None:
        self.plan, self._volume = plan, volume
        self._random = np.random.default_rng(plan.seed)
        window = volume.window
        low, high = window.lower, window.upper
        self._voxels = np.clip((volume.voxels.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * 255
        self._labels = {
            names.get(number, f"label {number}"): (labels == number).astype(np.float32)
            for number in plan.labels
        }
        geometry = volume.geometry
        self._to_ijk = np.linalg.inv(geometry.ijk_to_ras)
        first = next(iter(self._labels.values()))
        self._centre = geometry.position_of([np.argwhere(first > 0).mean(axis=0)[::-1]])[0]
        self._across, self._count = geometry.axis(Plane.AXIAL), geometry.slice_count(Plane.AXIAL)
        rows, columns = plan.side
        scale = _SAMPLED / max(rows, columns)
        self._sampled = (rows, columns) if scale >= 1 else (round(rows * scale), round(columns * scale))

    def stream(self) -> Stream:
        count = int(self.plan.seconds * RATE_HZ)
        frames, truth = [], {name: np.zeros((count, *self.plan.side), bool) for name in self._labels}
        tremble = self._tremble(count)
        speckle = self._random.normal(0, 1, (64, 64)).astype(np.float32)
        for i in range(count):
            places = self._places(i, count, tremble[i])
            grey = self._sample(self._voxels, places)
            t = i / RATE_HZ
            gain = 1 + self.plan.gain * np.sin(2 * np.pi * t / 3.7) + (0.15 if int(t / 2.5) % 2 else 0)
            noise = self._random.normal(0, self.plan.noise, grey.shape).astype(np.float32)
            noise += cv2.GaussianBlur(noise, (0, 0), 1.5) * 2
            grain = cv2.resize(np.roll(speckle, self._random.integers(0, 64, 2), (0, 1)), grey.shape[::-1])
            grey = grey * 0.75 * gain * (1 + 0.04 * grain) + noise + 8
            pixels = np.ascontiguousarray(np.clip(grey, 0, 255).astype(np.uint8))
            stamp = int(1e9 + i * 1e9 / RATE_HZ)
            frames.append(Frame(i + 1, stamp, stamp, pixels))
            for name, label in self._labels.items():
                truth[name][i] = self._sample(label, places) > 0.5
        return Stream(self.plan, frames, truth)

    def _tremble(self, count: int) -> np.ndarray:
        """(count, 3) mm: across, x, y of a hand."""
        steps = self._random.normal(0, 1, (count, 3))
        path = np.zeros((count, 3))
        for i in range(1, count):
            path[i] = 0.93 * path[i - 1] + 0.15 * steps[i]
        return path

    def _places(self, i: int, count: int, tremble: np.ndarray) -> np.ndarray:
        """(3, h, w) IJK of the sampled pixels."""
        plan, path, t = self.plan, self.plan.path, i / RATE_HZ

        def swing(of: tuple[float, float]) -> float:
            return of[0] * np.sin(2 * np.pi * of[1] * i / count)

        across, x, y = swing(path.across), swing(path.x), swing(path.y)
        if path.away:
            far, side, first, last = path.away
            # A second to go, a second to come back.
            out = np.clip(t - first, 0, 1) * np.clip(last - t, 0, 1)
            out = out * out * (3 - 2 * out)
            across, x = across + far * out, x + side * out
        across, x, y = np.array([across, x, y]) + tremble + plan.shift
        turn, tilt = np.deg2rad(swing(path.turn)), np.deg2rad(swing(path.tilt))
        rows, columns = self._sampled
        spacing = plan.width / columns
        u, v = np.meshgrid(
            (np.arange(columns) - (columns - 1) / 2) * spacing, (np.arange(rows) - (rows - 1) / 2) * spacing
        )
        u, v = self._deformed(u, v, t)
        # Rows go to the back, columns to the left, as pictures of patients are shown.
        a = u * np.cos(turn) - v * np.sin(turn) + x
        b = u * np.sin(turn) + v * np.cos(turn) + y
        ras = np.stack(
            [
                self._centre[0] - a,
                self._centre[1] - b * np.cos(tilt),
                self._centre[2] + across + b * np.sin(tilt),
            ]
        )
        ijk = np.tensordot(self._to_ijk[:3, :3], ras, 1) + self._to_ijk[:3, 3, None, None]
        # Beyond the volume's ends, its last slices go on: a plane that tilts shows no black wedge.
        ijk[self._across] = ijk[self._across].clip(0, self._count - 1)
        return ijk

    def _deformed(self, u: np.ndarray, v: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Where tissue that is now at u, v mm lies at rest."""
        plan = self.plan
        if plan.breath:
            # The front moves, the back lies still.
            weight = 1 / (1 + np.exp(v / (plan.width / 8)))
            phase = np.sin(np.pi * t / 4) ** 2
            v = v + plan.breath * phase * (0.3 + 0.7 * weight)
            u = u + 0.35 * plan.breath * phase * weight * np.sin(u / plan.width * 4)
        if plan.beat:
            near = np.exp(-(u**2 + v**2) / (plan.width / 5) ** 2)
            squeeze = 1 + plan.beat / (plan.width / 10) * near * max(0.0, np.sin(2 * np.pi * 1.2 * t)) ** 2
            u, v = u * squeeze, v * squeeze
        return u, v

    def _sample(self, voxels: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(H, W) float32; 0 outside the volume."""
        values = map_coordinates(voxels, places[::-1], order=1, output=np.float32)
        if values.shape == self.plan.side:
            return values
        return cv2.resize(values, self.plan.side[::-1], interpolation=cv2.INTER_CUBIC)
