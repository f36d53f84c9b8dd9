# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""From a file to a file: a ball at a known place in millimetres is segmented there, whatever the file's axes are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import phantom
import pytest
import SimpleITK as sitk

from samm_core.geometry import Plane
from samm_core.models.base import SegmentationModel
from samm_core.prompts import Prompt
from samm_core.segmentation.segmentation import Segmentation
from samm_core.segmentation.writers import write_segmentation
from samm_core.sources.volume import read_here

SIDES, CENTRE, RADIUS = (64, 60, 13), (40, 25, 7), 9.0
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def sheared(axes: np.ndarray, degrees: float) -> np.ndarray:
    axes = axes.copy()
    axes[:, 2] += np.tan(np.deg2rad(degrees)) * axes[:, 1]
    return axes


STRAIGHT = np.diag([-1.0, -1.0, 1.0])
CASES: dict[str, tuple[np.ndarray, Callable[[Path, np.ndarray, np.ndarray], Path]]] = {
    "tilted gantry": (
        sheared(STRAIGHT, 20),
        lambda folder, voxels, matrix: phantom.write_dicom(
            folder / "ct", phantom.dicom_slices(voxels, matrix)
        ),
    ),
    "sheared nrrd": (
        sheared(STRAIGHT, 15),
        lambda folder, voxels, matrix: phantom.write_nrrd(folder / "v.nrrd", voxels, matrix),
    ),
    "oblique nifti": (
        phantom.rotation([8, -14, 21]) @ np.diag([1.0, -1.0, 1.0]),
        lambda folder, voxels, matrix: phantom.write_nifti(folder / "v.nii.gz", voxels, matrix),
    ),
}


def by_nibabel(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def by_pynrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    voxels, header = nrrd.read(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(header["space directions"], float).T
    matrix[:3, 3] = header["space origin"]
    return voxels, LPS_TO_RAS @ matrix


def by_simpleitk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, LPS_TO_RAS @ matrix


READERS = {".nii.gz": by_nibabel, ".nrrd": by_simpleitk, ".seg.nrrd": by_pynrrd}


@pytest.mark.parametrize("case", CASES)
def test_a_ball_is_segmented_and_saved_where_it_is(
    case: str, tmp_path: Path, lite_medsam: SegmentationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes, write = CASES[case]
    matrix = phantom.placed(axes, (2.0, 2.0, 4.0), (70, 55, -30))
    monkeypatch.setattr(phantom, "RADIUS", RADIUS)
    volume = read_here(write(tmp_path, phantom.ball(CENTRE, SIDES), matrix))
    centre_ras = (matrix @ [*CENTRE, 1])[:3]
    plane = Plane.AXIAL
    # A box in millimetres, drawn on the slice that the ball's middle lies on.
    corners = volume.geometry.index_of(centre_ras) + np.array([[-10, -10, 0], [10, 10, 0]])
    prompt = Prompt(plane, None, True, np.zeros((0, 3)), np.zeros(0), volume.geometry.position_of(corners))

    index, pixels = prompt.on_slice(volume.geometry)
    (embedding,) = lite_medsam.encode([volume.slice_image(plane, index)])
    segmentation = Segmentation(volume.geometry)
    segmentation.apply(lite_medsam.decode(embedding, pixels).mask, plane, index, "ball")

    for suffix, read in READERS.items():
        path = tmp_path / f"saved{suffix}"
        write_segmentation(segmentation, path)
        labels, saved_matrix = read(path)
        found = (saved_matrix @ [*np.argwhere(labels).mean(axis=0), 1])[:3]
        assert np.linalg.norm(found - centre_ras) < 2.0, (
            f"{suffix}: the mask is at {found}, the ball at {centre_ras}"
        )
        assert abs(np.count_nonzero(labels) / (np.pi * RADIUS**2) - 1) < 0.15
