# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a person sees: pixels of a slice view with Slicer's own displayable managers, drawn off screen."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from slicer_scene import picture_of, slicer_app
from SlicerIPPLib.segment_writer import SegmentWriter

DIMENSIONS = (60, 60, 7)
IJK_TO_RAS = np.array([[1.0, 0, 0, -30], [0, 1, 0, -30], [0, 0, 1, -3], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def drawing() -> None:
    """VTK without a graphics driver, even in software, ends its process."""
    draw = "import vtk; w = vtk.vtkRenderWindow(); w.SetOffScreenRendering(1); w.Render()"
    if subprocess.run([sys.executable, "-c", draw], capture_output=True, check=False).returncode:
        pytest.skip("nothing is drawn here: there is neither EGL nor OSMesa")


def test_the_first_mask_of_a_new_segment_is_drawn_at_once(drawing: None) -> None:
    from trame_slicer.views import DirectRendering, SliceView

    app = slicer_app()
    view = SliceView(app.scene, app.app_logic, "Pixels", scheduled_render_strategy=DirectRendering())
    window = view.render_window()
    window.SetOffScreenRendering(1)
    window.SetSize(100, 100)
    slice_node = view.get_view_node()
    slice_node.SetOrientation("Axial")
    slice_node.SetDimensions(100, 100, 1)
    slice_node.SetFieldOfView(100, 100, 1)
    slice_node.JumpSliceByCentering(0, 0, 0)

    def red_pixels() -> int:
        pixels = picture_of(window)
        return int((pixels[..., 0] - pixels[..., 1] > 40).sum())

    node = app.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    segment_id = node.GetSegmentation().AddEmptySegment("", "tumour", (1.0, 0.0, 0.0))
    assert red_pixels() == 0
    writer = SegmentWriter(app.scene)
    for side in (40, 10):
        mask = np.zeros(DIMENSIONS[1::-1], bool)
        mask[10 : 10 + side, 10 : 10 + side] = True
        writer.write(node, segment_id, DIMENSIONS, IJK_TO_RAS, 2, 3, mask)
        assert red_pixels() == pytest.approx(mask.sum(), rel=0.1)
    app.scene.Clear(False)
