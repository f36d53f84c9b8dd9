# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Simulated clicks, and the judgement of a model on a folder of volumes with labels."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.clicks import first_click, next_click
from benchmarks.labelled import find_pairs, slices_of
from samm_core.errors import VolumeError
from samm_ros import cli


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """(H, W) bool with at least one pixel: some ellipses."""
    rows, columns = draw(st.integers(8, 60)), draw(st.integers(8, 60))
    mask = np.zeros((rows, columns), np.uint8)
    for _ in range(draw(st.integers(1, 3))):
        centre = draw(st.integers(0, columns - 1)), draw(st.integers(0, rows - 1))
        axes = draw(st.integers(0, columns // 3)), draw(st.integers(0, rows // 3))
        cv2.ellipse(mask, centre, axes, draw(st.integers(0, 180)), 0, 360, 1, -1)
    return mask.astype(bool)


@given(masks(), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_the_first_click_is_in_the_structure(mask: np.ndarray, seed: int, part: float) -> None:
    click = first_click(mask, np.random.default_rng(seed), part)
    assert click.positive and mask[int(click.y), int(click.x)]


@given(masks(), st.data())
def test_the_next_click_is_in_an_error_and_of_its_sign(truth: np.ndarray, data: st.DataObject) -> None:
    shift = data.draw(st.integers(-6, 6)), data.draw(st.integers(-6, 6))
    answer = np.roll(truth, shift, (0, 1))
    click = next_click(truth, answer, np.random.default_rng(0))
    if (truth == answer).all():
        assert click is None
    else:
        here = int(click.y), int(click.x)
        assert truth[here] != answer[here] and click.positive == truth[here]


def write(path: Path, voxels: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 2)) -> Path:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def ball() -> tuple[np.ndarray, np.ndarray]:
    k, j, i = np.indices((12, 80, 96))
    inside = ((i - 40) / 22) ** 2 + ((j - 42) / 18) ** 2 + ((k - 6) / 5) ** 2 < 1
    voxels = np.random.default_rng(0).normal(np.where(inside, 170, 60), 8).astype(np.float32)
    return voxels, inside.astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("a.nii.gz", "a_label.nii.gz"),
        ("a_image.nrrd", "a_label.nrrd"),
        ("ct_sm.nii.gz", "ct_seg.nii.gz"),
        ("imagesTr/liver_1_0000.nii.gz", "labelsTr/liver_1.nii.gz"),
        ("imagesTr/liver_1.nii.gz", "labelsTr/liver_1.nii.gz"),
    ],
)
def test_volumes_with_labels_are_found_as_people_keep_them(
    tmp_path: Path, ball: tuple, image: str, label: str
) -> None:
    write(tmp_path / image, ball[0])
    write(tmp_path / label, ball[1])
    write(tmp_path / "other.nii.gz", ball[0])
    (pair,) = find_pairs(tmp_path)
    assert (pair.image, pair.labels) == (tmp_path / image, tmp_path / label)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([], "no volumes with labels"),
        (["a.nii.gz"], "no volumes with labels"),
        (["a_label.nii.gz"], "there is none"),
        (["a_label.nii.gz", "a_t1.nii.gz", "a_t2.nii.gz"], "there is a_t1.nii.gz, a_t2.nii.gz"),
    ],
)
def test_a_folder_that_says_too_little_is_refused(
    tmp_path: Path, ball: tuple, files: list[str], sentence: str
) -> None:
    for name in files:
        write(tmp_path / name, ball[0])
    with pytest.raises(VolumeError, match=sentence):
        find_pairs(tmp_path)


def test_a_model_is_judged_by_clicks_and_boxes_in_a_table_and_a_picture(
    tmp_path: Path, ball: tuple, capsys: pytest.CaptureFixture
) -> None:
    write(tmp_path / "volumes" / "ball.nii.gz", ball[0])
    write(tmp_path / "volumes" / "ball_label.nii.gz", ball[1])
    (tmp_path / "volumes" / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "ball": 1}}))
    output = tmp_path / "out"
    arguments = ["bench", "--prompts", str(tmp_path / "volumes"), "--quick", f"--output={output}"]
    assert cli.main([*arguments, "--device=cpu"]) == 0
    said = capsys.readouterr().out
    assert "ball" in said and "of clicks lie on their side of the mask" in said
    trials = json.loads((output / "trials.json").read_text())
    assert len(trials) == 2
    for trial in trials:
        assert trial["box"] > 0.9 and trial["box_and_click"] > 0.9
        assert len(trial["clicks"]) == 8 and trial["clicks"][4] > 0.85, trial
    assert cv2.imread(str(output / "clicks.png")).shape[1] > 600


def test_labels_on_another_grid_are_refused(tmp_path: Path, ball: tuple) -> None:
    write(tmp_path / "a.nii.gz", ball[0])
    write(tmp_path / "a_label.nii.gz", ball[1], (1, 1, 3))
    (pair,) = find_pairs(tmp_path)
    with pytest.raises(VolumeError, match="a_label.nii.gz is not on the grid of its image"):
        slices_of(pair, 2)
