# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A graph that is started on a file of saved work goes on with it; without its volume it serves all the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from samm_core.geometry import Plane
from samm_core.prompts import PixelPrompt, pixel_box
from samm_core.saved_work import SavedWork
from samm_core.segmentation.segmentation import Segmentation
from samm_core.sources.volume import Volume
from samm_core.sources.window import Window
from samm_ros.client import GraphClient
from samm_ros.supervision.processes import environment
from samm_ros.supervision.supervisor import launch

pytestmark = pytest.mark.xdist_group("session")

BOX = [82, 8, 116, 75]


def saved_work(folder: Path, mni: Volume) -> Path:
    """On a copy of the volume, in a window of its own."""
    segmentation = Segmentation(mni.geometry)
    mask = np.zeros(mni.geometry.slice_shape(Plane.CORONAL), bool)
    mask[20:60, 90:110] = True
    segmentation.apply(mask, Plane.CORONAL, 100, "stem")
    segmentation.note_prompt("stem", Plane.CORONAL, 100, PixelPrompt(box_xyxy=BOX))
    copy = folder / "brain.nii.gz"
    shutil.copy(mni.uri, copy)
    windowed = SavedWork.of(mni, segmentation, "lite_medsam")
    path = folder / "case.samm"
    SavedWork(
        str(copy), mni.uid, mni.geometry, Window(10, 200), "lite_medsam", windowed.segments, windowed.prompts
    ).save(path)
    return path


def test_a_session_goes_on_where_it_was_saved(
    namespace: str, tmp_path: Path, mni: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    path = saved_work(tmp_path, mni)
    arguments = {"namespace": namespace, "sweep": "false", "bridge": "false", "session": str(path)}
    with launch(arguments, tmp_path / "log"), GraphClient(namespace, "goes-on") as client:

        def voxels() -> int:
            volume = client.segmentation_of(mni.uid)
            return sum(segment.voxels for segment in volume.segments) if volume else 0

        client.wait_for(lambda: voxels() == 40 * 20, "the saved work to be open", 120.0)
        (prompt,) = client.prompts_of("stem")
        assert prompt.in_pixels().box_xyxy.tolist() == BOX
        answer = client.prompt(pixel_box(Plane.CORONAL, 90, *BOX), "stem")
        assert answer.image.key.window == Window(10, 200)
        client.wait_for(lambda: voxels() == 40 * 20 + answer.mask.sum(), "the mask to be added", 30.0)


def test_without_its_volume_the_graph_serves_and_says_why_the_session_is_not_open(
    namespace: str, tmp_path: Path, mni: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    path = saved_work(tmp_path, mni)
    (tmp_path / "brain.nii.gz").rename(tmp_path / "moved.nii.gz")
    arguments = {"namespace": namespace, "sweep": "false", "bridge": "false", "session": str(path)}
    with launch(arguments, tmp_path / "log"), GraphClient(namespace, "goes-on") as client:
        client.wait_for(
            lambda: client.segmentation is not None and client.segmentation.last_error != "",
            "a sentence on the volume",
            120.0,
        )
        assert "case.samm is not open: There is no file or folder" in client.segmentation.last_error
        # Found again, its work is opened.
        client.load(tmp_path / "moved.nii.gz")
        client.wait_for(
            lambda: [each.name for each in client.segmentation_of(mni.uid).segments] == ["stem"],
            "the saved work to be open",
            60.0,
        )
        assert client.prompt(pixel_box(Plane.CORONAL, 90, *BOX), "stem").mask.any()
