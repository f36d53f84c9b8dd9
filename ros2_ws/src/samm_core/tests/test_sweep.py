# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Sweeps: slices through labelled volumes, put together again, are the volume and its labels in their place."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import phantom
import pytest
import SimpleITK as sitk
from scipy.ndimage import map_coordinates

from samm_core.errors import MaskError, OutputError, PoseError, VolumeError
from samm_core.geometry import VolumeGeometry
from samm_core.models.parity import dice_of
from samm_core.sources.volume import Window, read_here
from samm_core.stream.sweep import Sweep
from samm_core.stream.world import ImageGeometry

DATA = Path(os.environ.get("SAMM_TEST_DATA", Path(__file__).parents[4].parent / "shared/data"))


def on_points(voxels: np.ndarray, geometry: VolumeGeometry, points_ras: np.ndarray) -> np.ndarray:
    """(N,): what (K, J, I) voxels are at places, between voxels too; 0 outside of them."""
    ijk = geometry.index_of(points_ras)
    return map_coordinates(voxels.astype(np.float32), ijk[:, ::-1].T, order=1, cval=0)


def on_grid(voxels: np.ndarray, geometry: VolumeGeometry, grid: VolumeGeometry) -> np.ndarray:
    """(K, J, I): the voxels of a volume at those of another geometry."""
    kji = np.indices(grid.dimensions[::-1]).reshape(3, -1)
    return on_points(voxels, geometry, grid.position_of(kji[::-1].T)).reshape(grid.dimensions[::-1])


def swept(
    grey: np.ndarray,
    inside: np.ndarray,
    geometry: VolumeGeometry,
    turn_deg: tuple[float, float, float],
    side_mm: float,
    pixel_mm: float,
    step_mm: float,
) -> Sweep:
    """Square frames through the middle of a volume, turned by `turn_deg`, one every `step_mm` across their own plane."""
    middle = geometry.position_of((np.array(geometry.dimensions) - 1) / 2)[0]
    axes = phantom.rotation(turn_deg)
    side = int(side_mm / pixel_mm)
    # The frame's middle is the probe's, as a calibration would say.
    image_to_probe = np.diag([pixel_mm, pixel_mm, 1.0, 1.0])
    image_to_probe[:2, 3] = -pixel_mm * (side - 1) / 2
    image = ImageGeometry(image_to_probe)
    rows, columns = np.indices((side, side))
    pixels = np.stack([columns, rows, np.zeros_like(rows), np.ones_like(rows)], axis=-1).reshape(-1, 4)
    sweep = Sweep()
    for across in np.arange(-side_mm / 2, side_mm / 2, step_mm):
        to_ras = image.in_world(phantom.placed(axes, (1, 1, 1), middle + axes[:, 2] * across))
        places = (pixels @ to_ras.T)[:, :3]
        frame = np.rint(on_points(grey, geometry, places)).astype(np.uint8)
        labels = (on_points(inside, geometry, places) > 0.5).astype(np.uint8)
        sweep.add(frame.reshape(side, side), labels.reshape(side, side), to_ras)
    return sweep


@pytest.mark.parametrize(
    "turn_deg", [(0, 0, 0), (90, 0, 0), (25, -40, 70)], ids=["axial", "coronal", "oblique"]
)
def test_a_ball_is_put_together_in_its_place(turn_deg: tuple[float, float, float]) -> None:
    placement = phantom.placed(np.diag([-1.0, -1.0, 1.0]), (1, 1, 1), (40, 30, -25))
    centre = (28, 22, 17)
    k, j, i = np.indices((40, 44, 48))
    inside = (i - centre[0]) ** 2 + (j - centre[1]) ** 2 + (k - centre[2]) ** 2 < 11**2
    geometry = VolumeGeometry((48, 44, 40), placement)
    grey = np.where(inside, 200, 60).astype(np.uint8)
    shares: list[float] = []

    sweep = swept(grey, inside, geometry, turn_deg, 60, 0.8, 1.1)
    volume, labels, found = sweep.compound(1.0, progress=shares.append)

    assert volume.geometry == found and labels.shape == volume.voxels.shape == found.dimensions[::-1]
    assert labels.dtype == volume.voxels.dtype == np.uint8 and (volume.name, volume.uri) == ("sweep", "")
    assert dice_of(labels == 1, on_grid(inside, geometry, found) > 0.5) > 0.95
    expected = geometry.position_of(np.array([centre]))[0]
    assert np.linalg.norm(phantom.centre_ras(labels == 1, found.ijk_to_ras) - expected) < 0.3
    i, j, k = np.rint(found.index_of(expected)[0]).astype(int)
    assert volume.voxels[k, j, i] == 200 and labels[k, j, i] == 1
    # 14 mm to the right of it, which is not where another axis points.
    i, j, k = np.rint(found.index_of(expected + (14, 0, 0))[0]).astype(int)
    assert abs(int(volume.voxels[k, j, i]) - 60) <= 2 and labels[k, j, i] == 0
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) > 50


@pytest.mark.parametrize("label", [1, 2], ids=["spleen", "kidney"])
def test_an_organ_of_a_real_scan_is_put_together(label: int) -> None:
    if not (DATA / "ct_sm.nii.gz").exists():
        pytest.skip(f"There is no real volume in {DATA}; set SAMM_TEST_DATA.")
    scan, truth = read_here(DATA / "ct_sm.nii.gz"), read_here(DATA / "ct_seg.nii.gz")
    grey = Window(-160, 240).to_uint8(scan.voxels)
    organ = truth.voxels == label
    at = np.argwhere(organ)
    crop = tuple(slice(max(low - 3, 0), high + 4) for low, high in zip(at.min(0), at.max(0), strict=True))
    matrix = scan.geometry.ijk_to_ras.copy()
    matrix[:3, 3] = scan.geometry.position_of([[part.start for part in crop[::-1]]])[0]
    geometry = VolumeGeometry(organ[crop].shape[::-1], matrix)
    side_mm = float(np.linalg.norm(np.array(geometry.dimensions) * geometry.spacing))

    sweep = swept(grey[crop], organ[crop], geometry, (60, 20, -15), side_mm, 1.5, 2.5)
    volume, labels, found = sweep.compound(2.0)

    seen = labels == 1
    assert dice_of(seen, on_grid(organ[crop], geometry, found) > 0.5) >= 0.9
    # Interpolated twice, so that edges are softer; no more.
    assert np.abs(volume.voxels.astype(int) - on_grid(grey[crop], geometry, found))[seen].mean() < 12


def plane(
    z_mm: float, value: int, label: int = 0, side: int = 12
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A frame of 1 mm pixels, axial, R and A with its columns and rows."""
    return (
        np.full((side, side), value, np.uint8),
        np.full((side, side), label, np.uint8),
        phantom.placed(np.eye(3), (1, 1, 1), (0, 0, z_mm)),
    )


def test_a_voxel_is_the_mean_of_its_pixels_and_has_the_label_of_most() -> None:
    sweep = Sweep()
    for value, label in (10, 1), (20, 2), (60, 2):
        sweep.add(*plane(5, value, label))
    for value, label in (0, 0), (100, 7):
        sweep.add(*plane(6, value, label))
    for value, label in (0, 0), (0, 0), (30, 7):
        sweep.add(*plane(7, value, label))
    volume, labels, geometry = sweep.compound(1.0)
    assert geometry.dimensions == (12, 12, 3) and geometry.position_of([[0, 0, 0]])[0].tolist() == [0, 0, 5]
    assert volume.voxels[:, 3, 3].tolist() == [30, 50, 10]
    # Where as many pixels have none, the label wins.
    assert labels[:, 3, 3].tolist() == [2, 7, 0]


def test_small_holes_are_filled_and_wide_ones_and_the_outside_are_not() -> None:
    sweep = Sweep()
    for z, label in ((0, 1), (3, 2), (20, 2)):
        sweep.add(*plane(z, 50 * (z == 0) + 110 * (z == 3) + 200 * (z == 20), label))
    volume, labels, geometry = sweep.compound(1.0, holes_mm=3.0)
    assert geometry.dimensions == (12, 12, 21)
    assert volume.voxels[:5, 6, 6].tolist() == [50, 50, 110, 110, 0]
    assert labels[:5, 6, 6].tolist() == [1, 1, 2, 2, 0] and not labels[4:20].any()
    unfilled = sweep.compound(1.0, holes_mm=0)
    assert unfilled.volume.voxels[:5, 6, 6].tolist() == [50, 0, 0, 110, 0]
    # A slanted frame leaves the corners of its box outside: nothing lies around them.
    slanted = Sweep()
    slanted.add(*plane(0, 80)[:2], phantom.placed(phantom.rotation((0, 45, 0)), (1, 1, 1), (0, 0, 0)))
    filled, bare = (slanted.compound(1.0, holes_mm=holes).volume.voxels > 0 for holes in (6.0, 0))
    assert (filled & ~bare).sum() <= 0.5 * bare.sum() and not filled[0, :, -1].all()


def test_colours_are_kept_as_grey_and_the_arrays_are_the_callers() -> None:
    grey, labels, matrix = plane(0, 0, 1)
    colour = np.dstack([grey + 200, grey + 100, grey])
    sweep = Sweep()
    sweep.add(colour, labels, matrix)
    colour[:], labels[:], matrix[:] = 0, 0, 0
    volume, found, _ = sweep.compound(1.0)
    assert set(np.unique(volume.voxels)) == {119} and found.all()
    assert sweep.pixel_mm() == 1.0 and len(sweep) == 1 and sweep.nbytes == 288


def test_what_is_no_frame_of_a_sweep_is_refused() -> None:
    grey, labels, matrix = plane(0, 0)
    sweep = Sweep(max_bytes=600)
    with pytest.raises(MaskError, match=r"A frame is \(12, 12\) uint16; give"):
        sweep.add(grey.astype(np.uint16), labels, matrix)
    with pytest.raises(MaskError, match=r"The labels are \(11, 12\) uint8, the frame \(12, 12\)"):
        sweep.add(grey, labels[1:], matrix)
    with pytest.raises(PoseError, match="has no place"):
        sweep.add(grey, labels, np.zeros((4, 4)))
    with pytest.raises(VolumeError, match="The sweep has no frames"):
        sweep.compound()
    sweep.add(grey, labels, matrix)
    sweep.add(grey, labels, matrix)
    with pytest.raises(VolumeError, match="The sweep has 2 frames, 0 MiB of at most 0; save it"):
        sweep.add(grey, labels, matrix)
    assert len(sweep) == 2
    sweep.clear()
    sweep.add(grey, labels, matrix)
    assert len(sweep) == 1


def test_a_box_that_is_too_large_is_refused_before_anything_is_held() -> None:
    sweep = Sweep()
    sweep.add(*plane(0, 9))
    sweep.add(*plane(1_000_000, 9))
    with pytest.raises(
        VolumeError, match=r"spans 11 × 11 × 1000000 mm, which is .* voxels of 0\.1 mm; .* spacing of about"
    ):
        sweep.compound(0.1)
    with pytest.raises(VolumeError, match="A spacing of -1 mm"):
        sweep.compound(-1)


def test_the_spacing_that_is_told_fits() -> None:
    sweep = Sweep()
    for z in 0, 40:
        sweep.add(*plane(z, 9, side=60))
    with pytest.raises(VolumeError) as refused:
        sweep.compound(0.5, max_voxels=20_000)
    told = float(str(refused.value).split("about ")[1].split(" mm")[0])
    assert sweep.compound(told * 1.1, max_voxels=20_000).volume.voxels.size <= 20_000


def test_a_sweep_is_saved_as_a_volume_and_its_segmentation(tmp_path: Path) -> None:
    sweep = Sweep()
    for z in range(4):
        sweep.add(*plane(z, 40 + z, 2 if z < 2 else 5))
    path = tmp_path / "sweep.nrrd"

    written = sweep.save(path, {2: "vessel", 9: "lost"}, {2: (1.0, 0.0, 0.0)})

    assert written == [path, tmp_path / "sweep.seg.nrrd"] and sorted(tmp_path.iterdir()) == sorted(written)
    volume = read_here(path)
    assert volume.voxels[:, 0, 0].tolist() == [40, 41, 42, 43]
    assert np.allclose(volume.geometry.ijk_to_ras, np.eye(4))
    image = sitk.ReadImage(str(written[1]))
    assert sitk.GetArrayFromImage(image)[:, 0, 0].tolist() == [2, 2, 5, 5]
    told = {image.GetMetaData(f"Segment{n}_Name"): image.GetMetaData(f"Segment{n}_Color") for n in range(3)}
    assert set(told) == {"vessel", "segment 5", "lost"} and told["vessel"] == "1 0 0"
    for again in path, tmp_path / "sweep.seg.nrrd", tmp_path / "sweep.nii", tmp_path / "none" / "s.nrrd":
        with pytest.raises(OutputError):
            sweep.save(again)
    assert np.array_equal(read_here(path).voxels, volume.voxels)
