# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Pictures of a segmentation: its outlines on slices, and its surface."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ..errors import OutputError
from ..geometry import Plane
from ..overlay import draw_overlay
from ..segmentation.segmentation import Segmentation
from ..sources.volume import Volume

# Slices in a montage, and its columns; pixels of a slice's longer side.
MOST_TILES, MOST_COLUMNS, TILE_PX = 24, 6, 256
# Cells along the longest side of a segment whose surface is drawn: 64 give about 20,000 triangles, drawn in a second.
SURFACE_CELLS = 64
_SMOOTHING_CELLS, _AROUND = 0.8, 4
_CAPTION_PX = 18


def write_montage(path: Path, volume: Volume, segmentation: Segmentation, planes: Sequence[Plane]) -> None:
    """A PNG of every n-th slice of these planes that a segment is on, upright, with outlines. Raises OutputError."""
    labels, colors = segmentation.labelmap(), {each.label: each.color for each in segmentation.segments()}
    shown = [(plane, index) for plane in planes for index in _occupied(volume, labels, plane)]
    step = math.ceil(len(shown) / MOST_TILES) or 1
    tiles = []
    for plane, index in shown[(len(shown) - 1) % step // 2 :: step]:
        of_slice = np.ascontiguousarray(volume.geometry.take_slice(labels, plane, index))
        picture = draw_overlay(volume.slice_image(plane, index), of_slice, colors, stale=False)
        tiles.append(_tile(volume, picture, plane, index))
    if not tiles:
        raise OutputError(f"{path} cannot be drawn: no slice has a mask.")
    columns = min(MOST_COLUMNS, math.ceil(math.sqrt(len(tiles))))
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    montage = np.zeros((math.ceil(len(tiles) / columns) * height, columns * width, 3), np.uint8)
    for number, tile in enumerate(tiles):
        y, x = number // columns * height, number % columns * width
        montage[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    _save(path, montage)


def write_picture(path: Path, volume: Volume, segmentation: Segmentation, plane: Plane) -> None:
    """A PNG of a picture, the one image of `volume`, pixel by pixel, with outlines."""
    labels, colors = segmentation.slice_labels(plane, 0), {s.label: s.color for s in segmentation.segments()}
    _save(path, draw_overlay(volume.slice_image(plane, 0), labels, colors, stale=False))


def write_surface(path: Path, segmentation: Segmentation) -> None:
    """A PNG of all segments' surfaces, seen from the front, a little from the right and above.

    Raises OutputError where no segment has a voxel.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.colors import LightSource
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    figure = pyplot.figure(figsize=(6, 6), facecolor="white")
    axes = figure.add_subplot(projection="3d")
    every = []
    for segment, voxels in segmentation.snapshot():
        if not voxels.any():
            continue
        triangles = triangles_ras(segmentation, voxels)
        every.append(triangles.reshape(-1, 3))
        light = LightSource(135, 45)
        axes.add_collection3d(
            Poly3DCollection(triangles, facecolors=segment.color, shade=True, lightsource=light)
        )
    if not every:
        pyplot.close(figure)
        raise OutputError(f"{path} cannot be drawn: no segment has a voxel.")
    low, high = (getattr(np.concatenate(every), end)(axis=0) for end in ("min", "max"))
    margins = np.maximum(high - low, 1.0)
    axes.set(
        xlim=(low[0], low[0] + margins[0]),
        ylim=(low[1], low[1] + margins[1]),
        zlim=(low[2], low[2] + margins[2]),
        xlabel="R mm",
        ylabel="A mm",
        zlabel="S mm",
        title=", ".join(each.name for each in segmentation.segments())[:80],
    )
    axes.set_box_aspect(margins)
    # From the front, as a radiologist sees the patient: right on the left.
    axes.view_init(elev=20, azim=60)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _occupied(volume: Volume, labels: np.ndarray, plane: Plane) -> list[int]:
    axis = 2 - volume.geometry.axis(plane)
    return np.flatnonzero(labels.any(axis=tuple(a for a in range(3) if a != axis))).tolist()


def _tile(volume: Volume, picture: np.ndarray, plane: Plane, index: int) -> np.ndarray:
    """The slice upright in its proportions, (TILE_PX + _CAPTION_PX, TILE_PX, 3) at most, with its name."""
    upright = np.ascontiguousarray(volume.geometry.show_upright(picture, plane))
    sx, sy = volume.geometry.spacing_xy(plane)
    width, height = upright.shape[1] * sx, upright.shape[0] * sy
    scale = TILE_PX / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    tile = np.zeros((size[1] + _CAPTION_PX, max(size[0], TILE_PX // 2), 3), np.uint8)
    tile[_CAPTION_PX:, : size[0]] = cv2.resize(upright, size, interpolation=cv2.INTER_LINEAR)
    caption = f"{plane.name.lower()} {index}"
    cv2.putText(tile, caption, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
    return tile


def triangles_ras(segmentation: Segmentation, voxels: np.ndarray) -> np.ndarray:
    """(N, 3, 3) millimetres: triangles, their corners, R A S, of a segment's surface, (K, J, I) bool with a voxel."""
    from scipy.ndimage import gaussian_filter
    from skimage.measure import marching_cubes

    box = [np.flatnonzero(voxels.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    low = np.array([each[0] for each in box])
    cropped = voxels[tuple(slice(each[0], each[-1] + 1) for each in box)].astype(np.float32)
    step = math.ceil(max(cropped.shape) / SURFACE_CELLS)
    # A mean of each block of voxels, smoothed, with nothing around, so that the surface is closed.
    padded = np.pad(cropped, [(0, -side % step) for side in cropped.shape])
    k, j, i = (side // step for side in padded.shape)
    blocks = padded.reshape(k, step, j, step, i, step).mean(axis=(1, 3, 5))
    smooth = gaussian_filter(np.pad(blocks, _AROUND), _SMOOTHING_CELLS, mode="constant")
    corners_kji, triangles, _, _ = marching_cubes(smooth, min(0.5, smooth.max() / 2))
    corners_kji = (corners_kji - _AROUND) * step + (step - 1) / 2 + low
    found = segmentation.geometry.position_of(corners_kji[:, ::-1])[triangles]
    # Outwards, whatever the volume's axes are: the signed volume of the body is then positive.
    inwards = np.linalg.det(found - found.mean(axis=(0, 1))).sum() < 0
    return found[:, ::-1] if inwards else found


def _save(path: Path, picture: np.ndarray) -> None:
    """picture: (H, W, 3) uint8 RGB."""
    _, data = cv2.imencode(".png", picture[..., ::-1])
    path.write_bytes(data.tobytes())
