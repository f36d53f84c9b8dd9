# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""STL and PLY: the surfaces of all segments, triangles in LPS millimetres, as 3D Slicer writes its models.

The file says so, by SPACE=LPS in STL's header and a comment of PLY, which 3D Slicer reads. Surfaces pass half-way between
voxels that are in and those that are out, and nothing is smoothed: they hold what the segmentation holds. Their triangles
turn outward, and each surface is closed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from skimage.measure import marching_cubes

from ...errors import MaskError
from ...geometry import VolumeGeometry
from .read_back import LPS, MARK, PLACEMENT_TOLERANCE, write_bytes

if TYPE_CHECKING:
    from ..segment_list import Segment
    from ..segmentation import Segmentation

_STL_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_PLY_VERTEX = np.dtype([("position", "<f8", 3), ("color", "u1", 3)])
_PLY_FACE = np.dtype([("count", "u1"), ("vertices", "<i4", 3)])


def write_stl(segmentation: Segmentation, path: Path) -> None:
    """Binary.

    The format knows neither names nor colours: one surface beside the other. Raises MaskError as surfaces does,
    and for positions that its 32-bit numbers do not hold.
    """
    corners = np.concatenate([vertices[faces] for _, vertices, faces in surfaces(segmentation)])
    rounded = corners.astype("<f4")
    off_mm = float(np.abs(rounded - corners).max())
    if off_mm > PLACEMENT_TOLERANCE * segmentation.geometry.spacing.min():
        raise MaskError(f"STL would place the surface {off_mm:.3g} mm beside the volume; .ply holds it.")
    triangles = np.zeros(len(corners), _STL_TRIANGLE)
    triangles["corners"] = rounded
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    triangles["normal"] = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    head = f"{MARK} SPACE=LPS UNIT=mm".encode().ljust(80)
    write_bytes(path, head + len(triangles).to_bytes(4, "little") + triangles.tobytes())


def write_ply(segmentation: Segmentation, path: Path) -> None:
    """Binary, with a colour at each vertex; comments name the segments in order, with their counts of vertices.

    Raises MaskError as surfaces does.
    """
    comments, vertices, faces, count = [], [], [], 0
    for segment, positions, triangles in surfaces(segmentation):
        comments.append(f"comment segment {segment.label}, {len(positions)} vertices: {segment.name}\n")
        vertices.append(np.zeros(len(positions), _PLY_VERTEX))
        vertices[-1]["position"] = positions
        vertices[-1]["color"] = np.rint(np.array(segment.color) * 255)
        faces.append(np.zeros(len(triangles), _PLY_FACE))
        faces[-1]["count"] = 3
        faces[-1]["vertices"] = triangles + count
        count += len(positions)
    head = (
        f"ply\nformat binary_little_endian 1.0\ncomment {MARK}\ncomment SPACE=LPS\ncomment UNIT=mm\n{''.join(comments)}"
        f"element vertex {count}\nproperty double x\nproperty double y\nproperty double z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        f"element face {sum(map(len, faces))}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    write_bytes(path, b"".join([head.encode(), *(each.tobytes() for each in (*vertices, *faces))]))


def surfaces(segmentation: Segmentation) -> list[tuple[Segment, np.ndarray, np.ndarray]]:
    """Of each segment that is not empty, the vertices, (N, 3) float64 LPS mm, and the triangles, (M, 3) int.

    Raises MaskError when all segments are empty.
    """
    found = [
        (segment, *_surface(voxels, segmentation.geometry))
        for segment, voxels in segmentation.snapshot()
        if voxels.any()
    ]
    if not found:
        raise MaskError("No segment has a voxel, so there is no surface to write; segment something first.")
    return found


def _surface(voxels: np.ndarray, geometry: VolumeGeometry) -> tuple[np.ndarray, np.ndarray]:
    inside = np.argwhere(voxels)
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    # A voxel of nothing around it, so that the surface is closed at the volume's border too.
    box = np.pad(voxels[tuple(map(slice, low, high))], 1).astype(np.float32)
    vertices_kji, triangles, _, _ = marching_cubes(box, 0.5)
    vertices_ijk = (vertices_kji.astype(np.float64) + low - 1)[:, ::-1]
    vertices = geometry.position_of(vertices_ijk) @ LPS[:3, :3]
    # Inside out, where I, J and K turn the other way than L, P and S: then the volume is negative.
    corners = vertices[triangles] - vertices.mean(axis=0)
    volume = np.einsum("ni,ni->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    return vertices, triangles if volume > 0 else triangles[:, ::-1]
