# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The main job as a user types it, and what is told when it is typed wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from samm_core.errors import PromptError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.models.parity import dice_of
from samm_core.prompts import PixelPrompt
from samm_ros import cli
from samm_ros.demo import script

GEOMETRY = VolumeGeometry(
    (60, 50, 40), np.array([[-2.0, 0, 0, 60], [0, -2.0, 0, 50], [0, 0, 3.0, -10], [0, 0, 0, 1]])
)


def demo(*arguments: str | Path, timeout_s: float = 240.0) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "samm_ros.cli", "demo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)


@pytest.fixture
def ball(tmp_path: Path) -> Path:
    """A bright ball of radius 24 mm around (0, 0, 50) RAS in noise."""
    k, j, i = np.indices(GEOMETRY.dimensions[::-1])
    ras = GEOMETRY.position_of(np.stack([i, j, k], axis=-1).reshape(-1, 3)).reshape(*k.shape, 3)
    inside = np.linalg.norm(ras - (0, 0, 50), axis=-1) < 24
    voxels = np.random.default_rng(0).normal(np.where(inside, 180, 60), 8).astype(np.float32)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((2, 2, 3))
    image.SetOrigin((-60, -50, -10))
    path = tmp_path / "ball.nrrd"
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.xdist_group("graph")
def test_a_users_volume_is_segmented_from_boxes_in_millimetres_and_pixels(ball: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run = demo(
        ball,
        "--box=axial:ras:-26,-26,50,26,26,50",
        "--box=sagittal:30:11,11,39,29",
        f"--output={output}",
        "--embed=0",
        "--segment=ball",
    )
    assert run.returncode == 0, run.stderr + run.stdout
    labels = sitk.ReadImage(str(output / "segmentation.nii.gz"))
    voxels = sitk.GetArrayFromImage(labels)
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(ball))) > 120
    for axis, index in ((0, 20), (2, 30)):
        mask, expected = voxels.take(index, axis) > 0, truth.take(index, axis)
        dice = 2 * (mask & expected).sum() / (mask.sum() + expected.sum())
        assert dice > 0.9, f"axis {axis}: Dice {dice:.2f}"
    assert labels.GetOrigin() == pytest.approx((-60, -50, -10))
    assert (output / "montage.png").stat().st_size > 10_000
    cycles = json.loads((output / "cycles.json").read_text())
    assert len(cycles["masks"]) == 2
    assert all(
        set(c["ended_ns"]) == {"SND_INF", "RCV_INF", "CPL_INF", "RCV_MSK", "APL_MSK"}
        for c in cycles["cycles"]
    )
    assert "first mask after load" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["/absent.nii.gz", "--box=axial:1:1,1,5,5"], "no file or folder"),
        ([], "Your own volume needs a prompt"),
        (["--box=axial:20:1,1,5"], "is no prompt"),
        (["--box=tilted:20:1,1,5,5"], "is no prompt"),
        (["--box=axial:ras:0,0,9999,1,1,9999"], "outside the volume"),
        (["--box=axial:20:1,1,5,5", "--box=axial:20:2,2,6,6"], "one box a slice"),
        (["--box=axial:40:1,1,5,5"], "no axial slice 40; the volume has slices 0 to 39"),
        (["--box=axial:20:1,1,nan,5"], "not finite"),
        (["--point=axial:20:60,1"], "outside the axial slices, which have 60 × 50 pixels"),
        (["--box=axial:20:1,1,5,5", "--output=/dev/null"], "/dev/null cannot be written"),
        (["--box=axial:20:1,1,5,5", "--output=/dev/null/x"], "/dev/null/x cannot be written"),
        (["--box=axial:20:1,1,5,5", "--output=/proc/x"], "/proc/x cannot be written"),
        (["--window=ct_soup", "--box=axial:20:1,1,5,5"], "no window preset ct_soup"),
    ],
)
def test_a_demo_that_cannot_be_is_refused_before_anything_starts(
    ball: Path, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], sentence: str
) -> None:
    volume = [] if arguments[:1] == ["/absent.nii.gz"] else [str(ball)]
    assert cli.main(["demo", *volume, f"--output={tmp_path / 'out'}", *arguments]) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert "Starting" not in said.out


@pytest.mark.parametrize("name", ["segmentation.nii.gz", "segmentation.seg.nrrd", "montage.png"])
@pytest.mark.parametrize("through", ["itself", "a link to it"])
def test_a_demo_never_writes_over_its_volume(
    ball: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, through: str
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    volume = output / name
    if through == "a link to it":
        volume.symlink_to(tmp_path / name)
        volume = tmp_path / name
    if name == "montage.png":
        sitk.WriteImage(sitk.Image(60, 50, sitk.sitkUInt8), str(volume))
    else:
        sitk.WriteImage(sitk.ReadImage(str(ball)), str(volume))
    before = volume.read_bytes()
    assert cli.main(["demo", str(volume), "--box=axial:0:1,1,5,5", f"--output={output}"]) == 2
    said = capsys.readouterr()
    assert f"{output / name} is the volume that was loaded" in said.err
    assert "Starting" not in said.out
    assert volume.read_bytes() == before
    assert list(output.iterdir()) == [output / name]


def test_points_and_a_box_on_one_slice_are_one_prompt() -> None:
    (step,) = script.parse(
        ["axial:7:2,3,20,30"], ["axial:7:10,12", "axial:ras:40,30,11"], ["axial:7:4,4"], "liver", GEOMETRY
    )
    index, pixels = step.prompt.on_slice(GEOMETRY)
    assert index == 7
    assert pixels.box_xyxy.tolist() == [2, 3, 20, 30]
    np.testing.assert_allclose(pixels.points_xy, [(10, 12), (10, 10), (4, 4)])
    assert pixels.labels.tolist() == [1, 1, 0]
    assert step.segment == "liver"


def test_every_step_of_the_demos_own_session_lies_on_the_mni_brain(mni) -> None:
    planes = set()
    for step in script.MNI:
        index, pixels = step.prompt.on_slice(mni.geometry)
        planes.add(step.prompt.plane)
        rows, columns = mni.geometry.slice_shape(step.prompt.plane)
        assert not pixels.outside(rows, columns)
        marked = (
            pixels.box_xyxy if pixels.has_box else [*(pixels.points_xy[0] - 4), *(pixels.points_xy[0] + 4)]
        )
        x0, y0, x1, y1 = np.array(marked, int)
        assert mni.slice_image(step.prompt.plane, index)[y0:y1, x0:x1].mean() > 20, (
            f"{step.segment} {index} is dark"
        )
    assert planes == set(Plane)


def test_the_demos_clicks_correct_the_mask_before_them(mni, lite_medsam, embedded) -> None:
    """The box of the left temporal pole and its three clicks agree better click by click."""
    steps = [s for s in script.MNI if s.segment == "left temporal pole" and s.prompt.box is None]
    assert [len(step.prompt.points) for step in steps] == [1, 2, 3]
    embedding = embedded(Plane.AXIAL, 35)
    boxed = lite_medsam.decode(embedding, PixelPrompt(box_xyxy=[36, 110, 82, 162])).mask
    masks = [lite_medsam.decode(embedding, step.prompt.on_slice(mni.geometry)[1]).mask for step in steps]
    dice = [dice_of(mask, boxed) for mask in masks]
    assert dice == sorted(dice) and dice[-1] > 0.9, dice


def test_a_text_that_is_no_prompt_is_refused() -> None:
    for text in (
        "",
        ":",
        "axial",
        "axial:",
        "axial:1:",
        "axial:x:1,2,3,4",
        "axial:1:1,2,3,x",
        "axial:ras:1,2,3,4",
    ):
        with pytest.raises(PromptError, match="is no prompt"):
            script.parse([text], [], [], "s", GEOMETRY)
