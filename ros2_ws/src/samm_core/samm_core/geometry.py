# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The one owner of coordinates: RAS millimetres ↔ IJK voxel indices ↔ plane, slice index and pixel.

RAS: right, anterior, superior, as 3D Slicer's world. IJK: continuous voxel indices, whole numbers at voxel centres, I the
fastest axis in memory; NumPy arrays of a volume are (K, J, I). Pixel: x the column and y the row of the array that plain
NumPy indexing along a plane's axis gives, whole numbers at pixel centres; nothing is flipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import permutations

import numpy as np

from .errors import PromptError, VolumeError

# Half a voxel beyond the outer centres is still the volume; this much rounding is forgiven, in voxels.
_EDGE = 0.5 + 1e-6
# A light microscope sees 1e-4 mm; beyond 10 km float64 no longer tells voxels of that size apart.
_LEAST_MM, _MOST_MM = 1e-6, 1e7


class Plane(IntEnum):
    """Anatomical planes; in 3D Slicer the Red, Green and Yellow views."""

    AXIAL = 0
    CORONAL = 1
    SAGITTAL = 2

    @property
    def normal(self) -> int:
        """The RAS axis across the plane: 0 right, 1 anterior, 2 superior."""
        return 2 - int(self)


@dataclass(frozen=True, eq=False)
class VolumeGeometry:
    """Where a volume's voxels lie.

    dimensions: voxels along I, J, K. ijk_to_ras: (4, 4) float64, voxel index to millimetres RAS.
    Raises VolumeError for what is no geometry: no voxels, an affine that is not finite, not invertible or no affine.
    """

    dimensions: tuple[int, int, int]
    ijk_to_ras: np.ndarray

    def __post_init__(self) -> None:
        if len(self.dimensions) != 3 or min(self.dimensions) < 1:
            raise VolumeError(
                f"A volume of {self.dimensions} voxels has nothing to segment; each side must be 1 or more."
            )
        matrix = np.array(self.ijk_to_ras, np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise VolumeError(
                "The volume's IJK-to-RAS matrix is not 4×4 and finite; export the volume again."
            )
        if not np.array_equal(matrix[3], (0, 0, 0, 1)):
            raise VolumeError(
                f"The volume's IJK-to-RAS matrix ends in {matrix[3].tolist()}, not 0 0 0 1; export it again."
            )
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        # Also for a spacing that overflows: NaN is not at least anything.
        if spacing.min() <= 0 or not abs(np.linalg.det(matrix[:3, :3] / spacing)) >= 1e-6:
            raise VolumeError(
                f"The volume's voxels are flat: spacing {spacing.tolist()} mm; correct the spacing and directions."
            )
        if not (spacing.min() >= _LEAST_MM and np.abs(matrix).max() <= _MOST_MM):
            raise VolumeError(
                f"The volume's voxels are {spacing.tolist()} mm apart, the first at {matrix[:3, 3].tolist()}; correct the spacing "
                "and origin."
            )
        matrix.flags.writeable = False
        object.__setattr__(self, "dimensions", tuple(int(n) for n in self.dimensions))
        object.__setattr__(self, "ijk_to_ras", matrix)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VolumeGeometry):
            return NotImplemented
        return self.dimensions == other.dimensions and np.array_equal(self.ijk_to_ras, other.ijk_to_ras)

    def __hash__(self) -> int:
        return hash((self.dimensions, self.ijk_to_ras.tobytes()))

    @cached_property
    def ras_to_ijk(self) -> np.ndarray:
        """(4, 4) float64, the inverse of ijk_to_ras."""
        inverse = np.linalg.inv(self.ijk_to_ras)
        inverse.flags.writeable = False
        return inverse

    @property
    def spacing(self) -> np.ndarray:
        """(3,) float64, millimetres between voxel centres along I, J, K."""
        return np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)

    def index_of(self, points_ras: np.ndarray) -> np.ndarray:
        """(N, 3) RAS millimetres to (N, 3) continuous IJK."""
        return (
            np.asarray(points_ras, np.float64).reshape(-1, 3) @ self.ras_to_ijk[:3, :3].T
            + self.ras_to_ijk[:3, 3]
        )

    def position_of(self, points_ijk: np.ndarray) -> np.ndarray:
        """(N, 3) continuous IJK to (N, 3) RAS millimetres."""
        return (
            np.asarray(points_ijk, np.float64).reshape(-1, 3) @ self.ijk_to_ras[:3, :3].T
            + self.ijk_to_ras[:3, 3]
        )

    @cached_property
    def _axes(self) -> tuple[int, int, int]:
        # The assignment of IJK axes to RAS axes with the largest sum of |cosines|; of equals, the first in order.
        cosines = np.abs(self.ijk_to_ras[:3, :3] / self.spacing)
        return max(
            permutations(range(3)), key=lambda axes: round(sum(cosines[r, a] for r, a in enumerate(axes)), 9)
        )

    def axis(self, plane: Plane) -> int:
        """The IJK axis (0 I, 1 J, 2 K) across the plane: the one that lies closest to its anatomical normal."""
        return self._axes[plane.normal]

    def slice_count(self, plane: Plane) -> int:
        """How many slices the plane has."""
        return self.dimensions[self.axis(plane)]

    def slice_shape(self, plane: Plane) -> tuple[int, int]:
        """Rows and columns of the plane's slices."""
        x, y = self._in_plane(plane)
        return self.dimensions[y], self.dimensions[x]

    def contains_slice(self, plane: Plane, index: int) -> bool:
        """Whether the plane has a slice of that index; negative ones do not count from the end."""
        return 0 <= index < self.slice_count(plane)

    def take_slice(self, array_kji: np.ndarray, plane: Plane, index: int) -> np.ndarray:
        """A view, (rows, columns, …), of one slice of a (K, J, I, …) array."""
        selection: list[int | slice] = [slice(None)] * 3
        selection[2 - self.axis(plane)] = index
        return array_kji[tuple(selection)]

    def pixel_of(self, points_ijk: np.ndarray, plane: Plane) -> tuple[np.ndarray, np.ndarray]:
        """(N, 3) IJK to the positions across the plane, (N,) in slices, and the pixels, (N, 2) x, y."""
        points = np.asarray(points_ijk, np.float64).reshape(-1, 3)
        return points[:, self.axis(plane)], points[:, self._in_plane(plane)]

    def ijk_of(self, points_xy: np.ndarray, plane: Plane, slice_index: float) -> np.ndarray:
        """(N, 2) pixels of one slice to (N, 3) IJK."""
        points_xy = np.asarray(points_xy, np.float64).reshape(-1, 2)
        points = np.empty((len(points_xy), 3))
        points[:, self.axis(plane)] = slice_index
        points[:, self._in_plane(plane)] = points_xy
        return points

    def slice_pose(self, plane: Plane, index: int) -> np.ndarray:
        """(4, 4) float64: pixels (x, y, 0, 1) of a slice to RAS millimetres; the third column is its normal, one slice on."""
        x, y = self._in_plane(plane)
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1] = self.ijk_to_ras[:3, x], self.ijk_to_ras[:3, y]
        pose[:3, 2] = self.ijk_to_ras[:3, self.axis(plane)]
        pose[:3, 3] = self.position_of(self.ijk_of([[0, 0]], plane, index))[0]
        return pose

    def slice_at(self, point_ras: np.ndarray, plane: Plane) -> int:
        """The index of the slice that a point (3,) RAS lies on; raises PromptError outside the volume."""
        point_ijk = self.index_of(point_ras)
        self._require_inside(np.asarray(point_ras, np.float64).reshape(1, 3), point_ijk)
        return self._nearest_slice(point_ijk[0, self.axis(plane)], plane)

    def to_slice(self, points_ras: np.ndarray, plane: Plane, slice_index: int) -> np.ndarray:
        """(N, 3) RAS to (N, 2) pixels x, y of one slice.

        Raises PromptError for a point outside the volume, and for one more than half a slice off this slice.
        """
        points_ras = np.asarray(points_ras, np.float64).reshape(-1, 3)
        points_ijk = self.index_of(points_ras)
        self._require_inside(points_ras, points_ijk)
        across, points_xy = self.pixel_of(points_ijk, plane)
        off = np.flatnonzero(np.abs(across - slice_index) > _EDGE)
        if off.size:
            raise PromptError(
                f"The point {_text(points_ras[off[0]])} RAS lies on {plane.name.lower()} slice "
                f"{self._nearest_slice(across[off[0]], plane)}, not on slice {slice_index}; move it there or show its slice."
            )
        return points_xy

    def show_upright(self, array_2d: np.ndarray, plane: Plane) -> np.ndarray:
        """A view of a slice array (rows, columns, …) turned as radiologists look at it.

        Axial and coronal: the patient's right on the left of the picture; sagittal: anterior on the left. Axial: anterior
        up; else superior up.
        """
        transpose, flip_x, flip_y = self._turn(plane)
        picture = array_2d.swapaxes(0, 1) if transpose else array_2d
        return picture[:: -1 if flip_y else 1, :: -1 if flip_x else 1]

    def upright_xy(self, points_xy: np.ndarray, plane: Plane) -> np.ndarray:
        """(N, 2) pixels of a slice to (N, 2) pixels of the picture that show_upright makes of it."""
        transpose, flip_x, flip_y = self._turn(plane)
        points = np.array(points_xy, np.float64).reshape(-1, 2)
        rows, columns = self.slice_shape(plane)
        if transpose:
            points, (rows, columns) = points[:, ::-1].copy(), (columns, rows)
        if flip_x:
            points[:, 0] = columns - 1 - points[:, 0]
        if flip_y:
            points[:, 1] = rows - 1 - points[:, 1]
        return points

    def spacing_xy(self, plane: Plane) -> tuple[float, float]:
        """Millimetres between the columns, and between the rows, of the picture that show_upright makes."""
        x, y = self._in_plane(plane)
        if self._turn(plane)[0]:
            x, y = y, x
        return float(self.spacing[x]), float(self.spacing[y])

    def _in_plane(self, plane: Plane) -> list[int]:
        """The IJK axes of x and y: the two that are left, in order."""
        return [axis for axis in range(3) if axis != self.axis(plane)]

    def _turn(self, plane: Plane) -> tuple[bool, bool, bool]:
        """Whether to transpose, then flip x, then flip y, for the picture."""
        # To the right of the picture goes the patient's left (−R), or posterior (−A); down goes posterior or inferior.
        across_ras = 1 if plane == Plane.SAGITTAL else 0
        down_ras = 1 if plane == Plane.AXIAL else 2
        across, down = self._axes[across_ras], self._axes[down_ras]
        transpose = self._in_plane(plane) != [across, down]
        return transpose, self.ijk_to_ras[across_ras, across] > 0, self.ijk_to_ras[down_ras, down] > 0

    def _nearest_slice(self, across: float, plane: Plane) -> int:
        return min(max(round(float(across)), 0), self.slice_count(plane) - 1)

    def _require_inside(self, points_ras: np.ndarray, points_ijk: np.ndarray) -> None:
        # Written so that NaN is outside.
        inside = ((points_ijk >= -_EDGE) & (points_ijk <= np.array(self.dimensions) - 1 + _EDGE)).all(axis=1)
        outside = np.flatnonzero(~inside)
        if outside.size:
            raise PromptError(
                f"The point {_text(points_ras[outside[0]])} RAS lies outside the volume; move it inside."
            )


def _text(point: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in point) + ")"
