# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A live stream in 3D Slicer's scene: the real logic on a real MRML scene, fed by hand, by a bridge, and by a whole graph."""

from __future__ import annotations

import itertools
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer.util
from bridge_process import BridgeProcess
from peer import Peer
from sensor_msgs.msg import Image
from slicer_scene import SlicerScene, numpy_matrix, slicer_app, vtk_matrix
from SlicerIPPLib.client_events import BridgeState, ImageReceived, ReplyReceived
from SlicerIPPLib.frames import decode_image
from SlicerIPPLib.state import Model
from test_bridge_stream import SHAPE, T0, Streamer, header, labels_of, picture
from test_slicer_views import drawing  # noqa: F401 (a fixture)
from vtk import vtkMatrix4x4, vtkWindowToImageFilter
from vtk.util.numpy_support import vtk_to_numpy

from samm_core import ipp
from samm_core.segmentation.colors import segment_color
from samm_ros import topics
from samm_ros.support.images import image_to_msg
from samm_ros.tools.player import SENT

pytestmark = pytest.mark.xdist_group("graph")

# Slicer's places of a picture's pixels.
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def track(name: str, label: int, state: str = "tracking", **changes: Any) -> dict[str, Any]:
    fields = {"cause": "", "age_s": 0.42, "score": 0.9, "area": 400, "error": "", **changes}
    return {"name": name, "label": label, "state": state, **fields}


class Streaming(SlicerScene):
    """As if a bridge were connected; what would be sent to it lies in `asked` and `notes`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, dict[str, Any], Callable]] = []
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.logic.connection.request = self._request
        self.logic.connection.send = lambda kind, **fields: self.notes.append((kind, fields))
        self.state.bridge = BridgeState.CONNECTED
        self.state.model = Model("a model", "cpu", True, True)
        self._numbers = itertools.count(1)
        self.logic.start_stream()

    def show(self, pixels: np.ndarray, labels: np.ndarray, *tracks: dict[str, Any], **changes: Any) -> int:
        """An image of the stream comes in, as it would be over the wire; its stamp."""
        number = next(self._numbers)
        fields = {"number": number, "stamp_ns": T0 + number, "shape": list(labels.shape), "error": ""}
        fields |= {"components": 1 if pixels.ndim == 2 else 3, "tracks": tracks, "stale": False, **changes}
        buffer = pixels.tobytes() + zlib.compress(labels.tobytes())
        message = ipp.unpack(ipp.FROM_BRIDGE, ipp.pack(ipp.FROM_BRIDGE, "stream_image", buffer, **fields))
        self._handle(ImageReceived(message, *decode_image(message)))
        return fields["stamp_ns"]

    def serve(self) -> None:
        """As the event loop does when something has changed."""
        self.logic.process_events()

    def place(self, *points: tuple[float, float]) -> None:
        """A user places positive points, in pixels."""
        if self.parameters.positive is None:
            self.parameters.positive = self.add_points([])
            self.logic.observe()
        for x, y in points:
            self.parameters.positive.AddControlPoint(-x, -y, 0)

    def marks(self) -> list[dict[str, Any]]:
        return [fields for kind, fields, _ in self.asked if kind == "track_prompt"]

    def answer(self, error: str = "") -> None:
        """The newest request is answered."""
        kind, fields = ("error", {"message": error}) if error else ("done", {"text": "Done."})
        self._handle(ReplyReceived(self.asked[-1][2], ipp.Message(kind, fields)))

    @property
    def volume(self) -> Any:
        return self.scene.GetNodeByID(self.state.stream_volume_id)

    def segment_id(self, name: str) -> str:
        return self.parameters.segmentation.GetSegmentation().GetSegmentIdBySegmentName(name)

    def pixels(self) -> np.ndarray:
        return slicer.util.arrayFromVolume(self.volume)[0]

    def mask(self, name: str) -> np.ndarray:
        """Of the pixels, which the segment holds: by their places in the world."""
        mask = np.zeros(self.pixels().shape[:2], bool)
        segment = self.parameters.segmentation.GetSegmentation().GetSegment(self.segment_id(name))
        if segment.GetRepresentation("Binary labelmap") is None:
            return mask
        xy = np.rint(self.voxels(self.segment_id(name))[:, :2] * (-1, -1)).astype(int)
        mask[xy[:, 1], xy[:, 0]] = True
        return mask

    def nodes(self, kind: str) -> int:
        return self.scene.GetNumberOfNodesByClass(kind)

    def _request(self, kind: str, on_reply: Any = None, buffer: bytes = b"", **fields: Any) -> None:
        """What the bridge would refuse is refused here."""
        ipp.pack(ipp.FROM_SLICER, kind, buffer, **fields)
        self.asked.append((kind, fields, on_reply))

    def _handle(self, event: Any) -> None:
        self.logic._incoming.handle(event)


@pytest.fixture
def streaming() -> Iterator[Streaming]:
    with Streaming() as streaming:
        yield streaming


@pytest.mark.parametrize("color", [False, True], ids=["grey", "colour"])
def test_each_image_is_shown_in_place_with_its_labels(streaming: Streaming, color: bool) -> None:
    assert [(kind, fields) for kind, fields, _ in streaming.asked] == [("stream", {"on": True})]
    streaming.show(picture(1, color), labels_of(7), track("liver", 7))
    volume, segmentation = streaming.volume, streaming.parameters.segmentation
    assert streaming.parameters.volume is volume
    assert (volume.GetName(), segmentation.GetName()) == ("Live stream", "Live objects")
    changes: list[int] = []
    volume.AddObserver("ModifiedEvent", lambda *_: changes.append(1))
    moved = np.roll(labels_of(7), 3, axis=0)
    streaming.show(picture(2, color), moved, track("liver", 7))
    assert streaming.volume is volume and streaming.parameters.segmentation is segmentation
    assert len(changes) == 1
    np.testing.assert_array_equal(streaming.pixels(), picture(2, color))
    np.testing.assert_array_equal(streaming.mask("liver"), moved == 7)
    segment = segmentation.GetSegmentation().GetSegment(streaming.segment_id("liver"))
    assert segment.GetColor() == pytest.approx(segment_color(6))
    assert [fields["number"] for kind, fields in streaming.notes if kind == "image_taken"] == [1, 2]
    assert streaming.nodes("vtkMRMLSegmentationNode") == 1


def test_a_picture_stands_as_one_that_slicer_reads(streaming: Streaming, tmp_path: Path) -> None:
    # slicer-core reads no PNG; ITK places the pixels of one as these: identity, a millimetre each.
    sitk.WriteImage(sitk.GetImageFromArray(picture(1)[None]), str(tmp_path / "picture.nrrd"))
    (read,) = slicer_app().io_manager.load_volumes(str(tmp_path / "picture.nrrd"))
    streaming.show(picture(1), labels_of(0))
    matrices = [vtkMatrix4x4(), vtkMatrix4x4()]
    for node, matrix in zip((read, streaming.volume), matrices, strict=True):
        node.GetIJKToRASMatrix(matrix)
    np.testing.assert_array_equal(*map(numpy_matrix, matrices))
    np.testing.assert_array_equal(numpy_matrix(matrices[0]), TO_RAS)
    # Red looks from below: to the right is the patient's left, down is posterior.
    to_view = np.linalg.inv(numpy_matrix(streaming.slices["Red"].GetSliceToRAS())) @ TO_RAS
    assert (to_view @ [1, 0, 0, 0]).tolist() == [1, 0, 0, 0]
    assert (to_view @ [0, 1, 0, 0]).tolist() == [0, -1, 0, 0]


def test_images_of_another_size_and_kind_are_shown_too(streaming: Streaming) -> None:
    streaming.show(picture(1), labels_of(7), track("liver", 7))
    volume = streaming.volume
    small = labels_of(7)[:30, :50]
    streaming.show(picture(2)[:30, :50], small, track("liver", 7))
    assert streaming.volume is volume
    np.testing.assert_array_equal(streaming.pixels(), picture(2)[:30, :50])
    np.testing.assert_array_equal(streaming.mask("liver"), small == 7)
    streaming.show(picture(3, color=True), labels_of(7), track("liver", 7))
    np.testing.assert_array_equal(streaming.pixels(), picture(3, color=True))
    np.testing.assert_array_equal(streaming.mask("liver"), labels_of(7) == 7)
    assert streaming.parameters.volume is streaming.volume
    assert streaming.nodes("vtkMRMLScalarVolumeNode") == 1


def test_two_objects_have_each_their_own_pixels(streaming: Streaming) -> None:
    labels = labels_of(1)
    labels[30:40, 20:30] = 2
    streaming.show(picture(1), labels, track("liver", 1), track("vessel", 2))
    np.testing.assert_array_equal(streaming.mask("liver"), labels == 1)
    np.testing.assert_array_equal(streaming.mask("vessel"), labels == 2)
    assert streaming.state.stream_text == "liver: tracking, 0.4 s\nvessel: tracking, 0.4 s"


def test_a_lost_object_is_hidden_and_told_and_comes_back(streaming: Streaming) -> None:
    labels = labels_of(1)
    labels[30:40, 20:30] = 2
    # What the labels may still hold of a lost object is not shown either.
    lost = track("liver", 1, "lost", cause="It has left the view.")
    streaming.show(picture(1), labels, track("liver", 1), track("vessel", 2))
    streaming.show(picture(2), labels, lost, track("vessel", 2, "uncertain", cause="Too old."))
    assert not streaming.mask("liver").any()
    np.testing.assert_array_equal(streaming.mask("vessel"), labels == 2)
    assert streaming.state.stream_text == ("liver: lost: It has left the view.\nvessel: uncertain: Too old.")
    streaming.show(picture(3), labels, track("liver", 1), track("vessel", 2))
    np.testing.assert_array_equal(streaming.mask("liver"), labels == 1)


def test_nothing_is_drawn_of_a_stale_stream(streaming: Streaming) -> None:
    streaming.show(picture(1), labels_of(1), track("liver", 1))
    streaming.show(picture(1), labels_of(1), track("liver", 1), stale=True, error="The graph is silent.")
    assert not streaming.mask("liver").any()
    assert "No image has come" in streaming.state.stream_text
    assert "The graph is silent." in streaming.state.stream_text


def test_nothing_is_drawn_while_the_bridge_is_lost_and_the_stream_goes_on_after_it(
    streaming: Streaming,
) -> None:
    streaming.show(picture(1), labels_of(1), track("liver", 1))
    streaming.logic.connection.set_state(BridgeState.LOST)
    assert not streaming.mask("liver").any()
    assert "The bridge was lost" in streaming.state.stream_text
    streaming.asked.clear()
    streaming.logic.connection.set_state(BridgeState.CONNECTED)
    assert ("stream", {"on": True}) in [(kind, fields) for kind, fields, _ in streaming.asked]
    streaming.show(picture(2), labels_of(1), track("liver", 1))
    np.testing.assert_array_equal(streaming.mask("liver"), labels_of(1) == 1)


def test_stop_leaves_the_nodes_and_what_they_show(streaming: Streaming) -> None:
    streaming.show(picture(1), labels_of(1), track("liver", 1))
    streaming.logic.stop_stream()
    assert streaming.asked[-1][:2] == ("stream", {"on": False})
    # One that was on its way.
    streaming.show(picture(2), labels_of(0))
    np.testing.assert_array_equal(streaming.pixels(), picture(1))
    np.testing.assert_array_equal(streaming.mask("liver"), labels_of(1) == 1)
    assert streaming.logic.reasons()["start_stream"] == ""
    assert streaming.logic.reasons()["load"] == "", "it is a volume of one slice now"
    volume = streaming.volume
    streaming.logic.start_stream()
    streaming.show(picture(3), labels_of(1), track("liver", 1))
    assert streaming.volume is volume
    np.testing.assert_array_equal(streaming.pixels(), picture(3))


def test_marks_are_sent_with_the_stamp_of_the_image_that_was_marked(streaming: Streaming) -> None:
    streaming.show(picture(1), labels_of(0))
    streaming.logic.add_segment("liver")
    streaming.serve()
    marked_ns = streaming.show(picture(2), labels_of(0))
    streaming.place((20.0, 12.5))
    # The next image comes before the mark is sent.
    streaming.show(picture(3), labels_of(0))
    streaming.serve()
    (mark,) = streaming.marks()
    assert mark == {
        "name": "liver",
        "stamp_ns": marked_ns,
        "points_xy": [[20.0, 12.5]],
        "labels": [1],
        "box_xyxy": None,
    }
    # Images alone send nothing again.
    streaming.show(picture(4), labels_of(1), track("liver", 1))
    streaming.serve()
    assert len(streaming.marks()) == 1
    assert streaming.segment_id("liver") == streaming.parameters.segment_id


def test_one_mark_is_on_its_way_at_a_time_and_the_newest_follows(streaming: Streaming) -> None:
    streaming.show(picture(1), labels_of(0))
    for x in (20.0, 25.0, 30.0):
        streaming.place((x, 12.0))
        streaming.serve()
    assert [len(mark["points_xy"]) for mark in streaming.marks()] == [1]
    streaming.answer()
    assert [len(mark["points_xy"]) for mark in streaming.marks()] == [1, 3]
    streaming.answer("The image of 1.000 s is no longer kept; mark a newer one.")
    assert "no longer kept" in streaming.state.prompt_problem
    assert "no longer kept" in streaming.state.log[-1]
    stamp_ns = streaming.show(picture(2), labels_of(0))
    streaming.serve()
    assert len(streaming.marks()) == 2, "what was refused is not sent by itself again"
    streaming.logic.prompt()
    assert streaming.marks()[-1]["stamp_ns"] == stamp_ns


def test_marks_of_one_object_are_not_the_next_ones(streaming: Streaming) -> None:
    streaming.show(picture(1), labels_of(0))
    streaming.logic.add_segment("liver")
    streaming.place((20.0, 12.0))
    streaming.serve()
    streaming.answer()
    streaming.logic.add_segment("vessel")
    streaming.serve()
    assert len(streaming.marks()) == 1
    streaming.parameters.box = streaming.add_roi((24, 32, -1), (40, 44, 1), TO_RAS)
    streaming.logic.observe()
    streaming.serve()
    mark = streaming.marks()[-1]
    assert (mark["name"], mark["points_xy"], mark["box_xyxy"]) == ("vessel", [], [24, 32, 40, 44])


def test_a_stream_that_is_moved_in_the_world_is_marked_in_its_pixels(streaming: Streaming) -> None:
    streaming.show(picture(1), labels_of(1), track("liver", 1))
    transform = streaming.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    moved = np.array([[0, -1, 0, 5], [1, 0, 0, -7], [0, 0, 1, 11], [0, 0, 0, 1.0]])
    transform.SetMatrixTransformToParent(vtk_matrix(moved))
    streaming.volume.SetAndObserveTransformNodeID(transform.GetID())
    streaming.show(picture(1), labels_of(1), track("liver", 1))
    assert streaming.parameters.segmentation.GetTransformNodeID() == transform.GetID()
    streaming.parameters.positive = streaming.add_points([(moved @ TO_RAS @ [20, 12, 0, 1])[:3]])
    streaming.logic.observe()
    streaming.serve()
    np.testing.assert_allclose(streaming.marks()[-1]["points_xy"], [[20, 12]], atol=1e-9)


def test_what_a_user_does_to_a_segment_is_done_to_its_object(streaming: Streaming) -> None:
    segments = (track("liver", 1), track("vessel", 2))
    streaming.show(picture(1), labels_of(1), *segments)
    segmentation = streaming.parameters.segmentation.GetSegmentation()
    segmentation.GetSegment(streaming.segment_id("liver")).SetName("tumour")
    segmentation.RemoveSegment(streaming.segment_id("vessel"))
    for number in (2, 3):
        streaming.show(picture(number), labels_of(1), *segments)
    edits = [(kind, fields) for kind, fields, _ in streaming.asked if kind.startswith("track")]
    assert edits == [
        ("track_rename", {"name": "liver", "new_name": "tumour"}),
        ("track_remove", {"name": "vessel"}),
    ]
    assert segmentation.GetNumberOfSegments() == 1
    # The graph has done so.
    streaming.show(picture(4), labels_of(1), track("tumour", 1))
    assert segmentation.GetNumberOfSegments() == 1
    np.testing.assert_array_equal(streaming.mask("tumour"), labels_of(1) == 1)


def test_an_object_that_the_graph_follows_no_longer_leaves_an_empty_segment(streaming: Streaming) -> None:
    streaming.show(picture(1), labels_of(1), track("liver", 1))
    # Its label is another's now.
    streaming.show(picture(2), labels_of(1), track("vessel", 1))
    assert not streaming.mask("liver").any()
    np.testing.assert_array_equal(streaming.mask("vessel"), labels_of(1) == 1)
    streaming.show(picture(3), labels_of(1), track("liver", 1))
    np.testing.assert_array_equal(streaming.mask("liver"), labels_of(1) == 1)
    assert not streaming.mask("vessel").any()


def test_what_is_for_volumes_says_so_while_a_stream_is_marked(streaming: Streaming) -> None:
    assert streaming.logic.reasons()["start_stream"] == "The live stream is shown already."
    streaming.show(picture(1), labels_of(0))
    reasons = streaming.logic.reasons()
    assert reasons["prompt"] == reasons["stop_stream"] == ""
    for control in ("load", "propagate", "everything", "embed", "freeze", "window"):
        assert "followed by itself" in reasons[control], control
    streaming.state.model = None
    assert "no model" in streaming.logic.reasons()["prompt"]


def test_nodes_that_were_deleted_are_made_again(streaming: Streaming) -> None:
    streaming.show(picture(1), labels_of(1), track("liver", 1))
    streaming.scene.RemoveNode(streaming.parameters.segmentation)
    streaming.scene.RemoveNode(streaming.volume)
    assert streaming.parameters.volume is None
    streaming.show(picture(2), labels_of(1), track("liver", 1))
    np.testing.assert_array_equal(streaming.pixels(), picture(2))
    np.testing.assert_array_equal(streaming.mask("liver"), labels_of(1) == 1)
    assert not [kind for kind, _, _ in streaming.asked if kind == "track_remove"]


@pytest.mark.usefixtures("drawing")
def test_each_image_is_drawn_in_a_view_with_its_objects(streaming: Streaming) -> None:
    from trame_slicer.views import DirectRendering, SliceView

    app = slicer_app()
    view = SliceView(app.scene, app.app_logic, "Stream", scheduled_render_strategy=DirectRendering())
    window = view.render_window()
    window.SetOffScreenRendering(1)
    window.SetSize(SHAPE[1], SHAPE[0])
    node = view.get_view_node()
    node.SetOrientation("Axial")
    node.SetDimensions(SHAPE[1], SHAPE[0], 1)
    node.SetFieldOfView(SHAPE[1], SHAPE[0], 1)
    node.JumpSliceByCentering(-(SHAPE[1] - 1) / 2, -(SHAPE[0] - 1) / 2, 0)

    def drawn() -> np.ndarray:
        """(H, W, 3), as a person sees it: the first row above."""
        window.Render()
        shot = vtkWindowToImageFilter()
        shot.SetInput(window)
        shot.SetInputBufferTypeToRGB()
        shot.ReadFrontBufferOff()
        shot.Update()
        pixels = vtk_to_numpy(shot.GetOutput().GetPointData().GetScalars())
        return pixels.reshape(*SHAPE, 3)[::-1].astype(int)

    grey = np.full(SHAPE, 40, np.uint8)
    grey[:8, :16] = 220
    streaming.show(grey, labels_of(0))
    view.set_background_volume_id(streaming.volume.GetID())
    seen = drawn()
    assert seen[2:6, 2:14].min() > 180 and seen[10:46].max() < 80, "it does not stand upright"
    for shift in (0, 12):
        labels = np.roll(labels_of(5), shift, axis=0)
        streaming.show(np.roll(grey, shift, axis=0), labels, track("liver", 5))
        seen = drawn()
        assert seen[2 + shift : 6 + shift, 2:14].min() > 120
        # Of its colour, 5 more red than green and blue.
        red = seen[..., 0] - seen[..., 2] > 20
        assert (red ^ (labels == 5)).mean() < 0.05
    streaming.show(grey, labels, track("liver", 5, "lost"))
    seen = drawn()
    assert not (seen[..., 0] - seen[..., 2] > 20).any()


@pytest.mark.parametrize(
    ("changes", "buffer", "sentence"),
    [
        ({"components": 2}, bytes(60), "2 values a pixel"),
        ({}, bytes(19), "19 bytes alone"),
        ({}, bytes(20) + b"no zlib", "no zlib stream"),
        ({}, bytes(20) + zlib.compress(bytes(19)), "do not unpack"),
        ({}, bytes(20) + zlib.compress(bytes(21)), "do not unpack"),
        ({}, bytes(20) + zlib.compress(bytes(20)) + b"x", "do not unpack"),
        ({}, bytes(20) + zlib.compress(bytes(20))[:-1], "do not unpack"),
        ({"shape": [16384, 16384]}, bytes(20) + zlib.compress(bytes(20)), "bytes alone"),
    ],
)
def test_an_image_that_is_not_as_it_says_is_refused(changes: dict, buffer: bytes, sentence: str) -> None:
    fields = {"number": 1, "stamp_ns": 1, "shape": [4, 5], "components": 1, "tracks": []}
    fields |= {"stale": False, "error": "", **changes}
    with pytest.raises(ipp.ProtocolError, match=sentence):
        decode_image(ipp.Message("stream_image", fields, buffer))


def test_a_bridges_images_are_shown_and_a_busy_slicer_gets_the_newest(namespace: str, tmp_path: Path) -> None:
    with (
        BridgeProcess(namespace, tmp_path) as bridge,
        Peer(namespace) as peer,
        SlicerScene() as scene,
    ):
        scene.logic.connect(f"tcp://127.0.0.1:{bridge.ports['IPP/2']}")
        scene.spin_until(lambda: scene.state.is_connected)
        scene.logic.start_stream()
        scene.spin_until(lambda: peer.node.count_subscribers(topics.TRACKS))
        streamer, shown = Streamer(peer), []
        receive = scene.logic.stream.receive

        def note(message: ipp.Message, *arrays: np.ndarray) -> None:
            shown.append(message["number"])
            receive(message, *arrays)

        scene.logic.stream.receive = note
        numbers = itertools.count(1)

        def first() -> bool:
            # Until both sides have discovered each other.
            streamer.send(next(numbers), image_to_msg(picture(0)), labels_of(7))
            return bool(shown)

        scene.spin_until(first)
        newest = next(numbers) + 50
        # While Slicer is busy, many come.
        for number in range(newest - 49, newest + 1):
            streamer.send(number, image_to_msg(picture(number)), labels_of(7))
            peer.pause(0.01)

        def last() -> bool:
            if newest not in shown:
                streamer.send(newest, image_to_msg(picture(newest)), labels_of(7))
            return newest in shown

        scene.spin_until(last)
        assert shown == sorted(shown) and len(shown) < 20, shown
        np.testing.assert_array_equal(
            slicer.util.arrayFromVolume(scene.parameters.volume)[0], picture(newest)
        )
        assert scene.state.stream_text == "liver: tracking, 0.2 s"
        scene.logic.stop_stream()
        scene.spin_until(lambda: not peer.node.count_subscribers(topics.TRACKS))


def test_a_point_in_slicer_is_followed_by_the_graph_and_drawn(shared_graph: str, tmp_path: Path) -> None:
    """Through the real bridge, the real node `track` and its model: a bright disc on a dark ground."""
    rows, columns = np.indices((96, 128))
    disc = (rows - 48) ** 2 + (columns - 60) ** 2 < 22**2
    shown = np.where(disc, 200, 30).astype(np.uint8)
    name = f"disc-{uuid.uuid4().hex[:6]}"
    with (
        BridgeProcess(shared_graph, tmp_path) as bridge,
        Peer(shared_graph) as peer,
        SlicerScene() as scene,
    ):
        scene.connect(bridge.ports["IPP/2"])
        scene.logic.start_stream()
        images = peer.publisher(Image, topics.IMAGE, SENT)
        stamps = iter(range(T0, T0 + 10**12, 33_000_000))

        def stream_until(condition: Callable[[], Any]) -> None:
            def sent() -> Any:
                image = image_to_msg(shown)
                image.header = header(next(stamps))
                images.publish(image)
                # Slower than the stamps have it: an encoder on a busy computer has that much more time.
                peer.pause(0.1)
                return condition()

            scene.spin_until(sent)

        stream_until(lambda: scene.state.stream_volume_id)
        scene.logic.add_segment(name)
        scene.parameters.box = scene.add_roi((36, 24, -1), (84, 72, 1), TO_RAS)
        scene.logic.observe()
        stream_until(lambda: f"{name}: tracking" in scene.state.stream_text)
        assert scene.state.prompt_problem == ""
        xy = np.rint(scene.voxels()[:, :2] * (-1, -1)).astype(int)
        mask = np.zeros(disc.shape, bool)
        mask[xy[:, 1], xy[:, 0]] = True
        assert 2 * (mask & disc).sum() > 0.9 * (mask.sum() + disc.sum())

        segmentation = scene.parameters.segmentation.GetSegmentation()
        segmentation.RemoveSegment(scene.parameters.segment_id)
        stream_until(lambda: name not in scene.state.stream_text)
        assert disc.shape != SHAPE and not segmentation.GetSegmentIdBySegmentName(name)
