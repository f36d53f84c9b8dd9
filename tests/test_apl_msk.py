# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""APL_MSK as a process of its own: what it tells, to whom, and that no clock, journal or message stops it."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from peer import Peer
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from samm_msgs.msg import (
    ClientCycles,
    SegmentationStatus,
    SliceMask,
    SliceRequest,
    TaskEvent,
    VolumeInfo,
    VolumeList,
)
from samm_msgs.srv import GetPrompts, SaveSegmentation, UndoChange, WorkFile

from samm_core.cycle.request import Answer, Request
from samm_core.geometry import Plane
from samm_core.mask_codec import encode_mask
from samm_core.prompts import PixelPrompt
from samm_core.saved_work import SavedWork, load_work
from samm_core.segmentation.segmentation import Segmentation
from samm_core.segmentation.writers import write_segmentation
from samm_core.sources.base import ImageId, SliceKey
from samm_core.sources.volume import LoadedVolume, VolumeGeometry
from samm_core.sources.window import Window
from samm_ros import conversions, topics

GEOMETRY = VolumeGeometry((12, 10, 8), np.diag([1.0, 1.0, 2.0, 1.0]))
SHAPE = GEOMETRY.slice_shape(Plane.AXIAL)
# Of this process alone: the topic that all nodes share is absolute.
DIAGNOSTICS = "diagnostics"


def asked(cycle: int, segment: str = "liver", client: str = "surgeon", index: int = 3) -> Request:
    prompt = PixelPrompt(box_xyxy=np.array([0, 0, 4, 4]))
    return Request(cycle, client, segment, ImageId("a volume", SliceKey(Plane.AXIAL, index)), SHAPE, prompt)


def answer_to(request: Request) -> Answer:
    mask = np.zeros(SHAPE, bool)
    mask[2:5, 2:5] = True
    target = (request.cycle, request.client_id, request.segment, request.image, request.shape)
    return Answer(*target, data=encode_mask(mask))


@dataclass
class Graph:
    """The rest of the graph, as far as APL_MSK sees it."""

    peer: Peer
    process: subprocess.Popen
    volume: Path

    def __post_init__(self) -> None:
        peer = self.peer
        peer.listen(SegmentationStatus, topics.SEGMENTATION_STATUS, topics.LATCHED)
        peer.listen(TaskEvent, topics.TASK_EVENTS, topics.EVENTS)
        peer.listen(DiagnosticArray, DIAGNOSTICS, 10)
        self.requests = peer.publisher(SliceRequest, topics.SLICE_REQUESTS, topics.NEWEST)
        self.masks = peer.publisher(SliceMask, topics.RECEIVED_MASKS, topics.NEWEST)
        info = VolumeInfo(uid="a volume", name="a volume", uri=str(self.volume), dtype="int16", components=1)
        info.dimensions = np.array(GEOMETRY.dimensions, np.uint32)
        info.ijk_to_ras = GEOMETRY.ijk_to_ras.ravel()
        info.window_upper = 1.0
        self.info, self.volumes = info, peer.publisher(VolumeList, topics.VOLUMES, topics.LATCHED)
        self.volumes.publish(VolumeList(volumes=[info]))
        self.status(lambda s: [each.volume_uid for each in s.volumes] == ["a volume"])

    def status(
        self, wanted: Callable[[SegmentationStatus], bool], timeout_s: float = 60.0
    ) -> SegmentationStatus:
        return self.peer.wait_for(topics.SEGMENTATION_STATUS, wanted, timeout_s)

    def request(self, request: Request) -> None:
        """Until APL_MSK has it."""
        self.peer.publish_until(
            self.requests,
            conversions.request_to_msg(request, 1, conversions.Time()),
            topics.SEGMENTATION_STATUS,
            lambda s: any(
                c.client_id == request.client_id and c.requested >= request.cycle for c in s.clients
            ),
        )

    def answer(self, answer: Answer, wanted: Callable[[SegmentationStatus], bool]) -> SegmentationStatus:
        message = conversions.answer_to_msg(answer, 1, conversions.Time())
        return self.peer.publish_until(self.masks, message, topics.SEGMENTATION_STATUS, wanted)

    def set(self, name: str, value: ParameterValue) -> None:
        request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
        (result,) = self.peer.call(SetParameters, "apl_msk/set_parameters", request).results
        assert result.successful, result.reason


@contextmanager
def apl_msk(folder: Path, **parameters: object) -> Iterator[Graph]:
    namespace = f"test_{uuid.uuid4().hex[:12]}"
    arguments = ["--ros-args", "-r", f"__ns:=/{namespace}", "-r", f"{topics.DIAGNOSTICS}:={DIAGNOSTICS}"]
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={value}"]
    command = [sys.executable, "-c", "from samm_ros.nodes.apl_msk import main; main()", *arguments]
    volume = folder / "volume.nii.gz"
    write_segmentation(Segmentation(GEOMETRY), volume)
    process = subprocess.Popen(command)
    try:
        with Peer(namespace) as peer:
            yield Graph(peer, process, volume)
            assert process.poll() is None, "apl_msk has ended"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    with apl_msk(tmp_path_factory.mktemp("volume"), use_sim_time="true") as running:
        yield running


def of(status: SegmentationStatus, client: str) -> ClientCycles:
    return next((c for c in status.clients if c.client_id == client), ClientCycles())


def test_a_segment_name_that_cannot_be_is_refused_to_its_client(running: Graph) -> None:
    request = asked(5, segment="a\tb", client="tab")
    running.request(request)

    status = running.answer(answer_to(request), lambda s: of(s, "tab").settled == 5)

    assert "cannot be named" in of(status, "tab").error == status.last_error
    assert status.refused >= 1
    running.peer.wait_for(
        topics.TASK_EVENTS, lambda e: (e.client_id, e.cycle, e.outcome) == ("tab", 5, TaskEvent.REFUSED)
    )


def test_without_a_clock_what_is_stale_is_told_and_headers_say_the_frame(running: Graph) -> None:
    """use_sim_time, and nobody publishes /clock."""
    request = asked(1, client="waiting")
    running.request(request)
    status = running.status(lambda s: s.stale and of(s, "waiting").requested == 1)
    assert status.header.frame_id == topics.FRAME_ID == "ras"

    running.answer(answer_to(request), lambda s: not s.stale and of(s, "waiting").settled == 1)


def test_a_damaged_mask_leaves_an_event_of_its_cycle(running: Graph) -> None:
    message = conversions.answer_to_msg(answer_to(asked(7, client="damaged")), 1, conversions.Time())
    message.checksum ^= 1

    running.peer.publish_until(
        running.masks,
        message,
        topics.TASK_EVENTS,
        lambda e: (e.client_id, e.cycle, e.outcome) == ("damaged", 7, TaskEvent.DROPPED),
    )

    running.status(lambda s: s.dropped >= 1)


def test_a_second_answer_is_counted_and_is_no_warning(running: Graph) -> None:
    request = asked(1, client="twice")
    running.request(request)
    before = running.answer(answer_to(request), lambda s: of(s, "twice").settled == 1)

    running.answer(answer_to(request), lambda s: s.dropped > before.dropped)

    heard = len(running.peer.heard[DIAGNOSTICS])
    running.peer.wait_for(DIAGNOSTICS, lambda _: len(running.peer.heard[DIAGNOSTICS]) > heard + 1)
    assert "answered already" not in running.peer.heard[DIAGNOSTICS][-1].status[0].message


def test_stale_after_and_overlay_can_be_set_while_it_runs(running: Graph) -> None:
    running.set("overlay", ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=False))
    running.set("stale_after", ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=60.0))
    request = asked(1, client="patient")
    running.request(request)
    running.peer.pause(0.5)
    assert not running.peer.heard[topics.SEGMENTATION_STATUS][-1].stale

    running.set("stale_after", ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=0.3))

    running.status(lambda s: s.stale and of(s, "patient").requested == 1)
    running.answer(answer_to(request), lambda s: of(s, "patient").settled == 1 and not s.stale)


def test_the_loaded_volume_is_not_saved_over(running: Graph) -> None:
    before = running.volume.read_bytes()

    saved = running.peer.call(
        SaveSegmentation, topics.SAVE_SEGMENTATION, SaveSegmentation.Request(path=str(running.volume))
    )

    assert not saved.success
    assert "is the volume that was loaded" in saved.message
    assert running.volume.read_bytes() == before


def test_without_its_journal_it_serves_and_says_so_as_long_as_it_is_so(tmp_path: Path) -> None:
    journal = tmp_path / "notes.txt"
    journal.write_text("not a journal")
    with apl_msk(tmp_path, journal=journal) as running:
        status = running.status(lambda s: s.journal_error != "")
        assert "cannot be used as a journal (it is no journal)" in status.journal_error
        request = asked(1)
        running.request(request)
        status = running.answer(answer_to(request), lambda s: s.applied == 1)
        assert status.journal_error != ""
        assert running.peer.call(UndoChange, topics.UNDO, UndoChange.Request()).success
        heard = len(running.peer.heard[DIAGNOSTICS])
        running.peer.wait_for(DIAGNOSTICS, lambda _: len(running.peer.heard[DIAGNOSTICS]) > heard + 1)
        (said,) = running.peer.heard[DIAGNOSTICS][-1].status
        assert "cannot be used as a journal" in said.message
        assert said.level == said.ERROR
    assert journal.read_text() == "not a journal"


def test_on_a_full_disk_it_serves_and_undoes_and_says_that_its_journal_is_not_kept(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with apl_msk(tmp_path, journal=journal) as running:
        running.request(asked(1))
        running.answer(answer_to(asked(1)), lambda s: s.applied == 1 and not s.journal_error)
        limits = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
        largest = max(file.stat().st_size for file in tmp_path.glob("journal*"))
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (largest, limits[1]))
        running.request(asked(2))
        running.answer(answer_to(asked(2)), lambda s: s.applied == 2 and bool(s.journal_error))
        running.peer.wait_for(
            DIAGNOSTICS, lambda a: a.status[0].level == DiagnosticStatus.ERROR and a.status[0].message
        )
        assert running.peer.call(UndoChange, topics.UNDO, UndoChange.Request()).success

        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, limits)
        running.peer.heard[topics.SEGMENTATION_STATUS].clear()
        running.status(lambda s: not s.journal_error)


def saved_work(path: Path, uid: str = "a volume") -> Path:
    segmentation = Segmentation(GEOMETRY)
    segmentation.apply(np.ones(SHAPE, bool), Plane.AXIAL, 2, "of the session")
    segmentation.note_prompt("of the session", Plane.AXIAL, 2, PixelPrompt([[1, 2]], [1]))
    volume = LoadedVolume(uid, "a volume", "/data/a volume.nii", GEOMETRY, Window(0, 1))
    SavedWork.of(volume, segmentation, "vit_b").save(path)
    return path


def names(status: SegmentationStatus) -> list[str]:
    return [segment.name for volume in status.volumes for segment in volume.segments]


def test_a_session_is_open_once_its_volume_is_there(tmp_path: Path) -> None:
    with apl_msk(tmp_path, session=saved_work(tmp_path / "case.samm")) as running:
        status = running.status(lambda s: names(s) == ["of the session"])
        (segment,) = status.volumes[0].segments
        assert (segment.voxels, list(segment.frozen_indices)) == (np.prod(SHAPE), [2])
        asked = GetPrompts.Request(segment="of the session")
        (prompt,) = running.peer.call(GetPrompts, topics.GET_PROMPTS, asked).prompts
        assert (prompt.image.index, prompt.points[0].x, prompt.points[0].y) == (2, 1, 2)
        again = WorkFile.Request(path=str(tmp_path / "again.samm"))
        assert running.peer.call(WorkFile, topics.SAVE_WORK, again).success
        assert load_work(tmp_path / "again.samm").model == "vit_b"


@pytest.mark.parametrize(
    ("is_there", "sentence"),
    [
        (False, "The work of .*case.samm is not open: There is no file."),
        (True, "case.samm is not open: .*volume.nii.gz has changed since; put the file back"),
    ],
    ids=["missing", "changed"],
)
def test_a_session_whose_volume_is_missing_or_changed_is_told_in_a_sentence(
    tmp_path: Path, is_there: bool, sentence: str
) -> None:
    with apl_msk(tmp_path, session=saved_work(tmp_path / "case.samm", uid="another")) as running:
        running.info.at_start = True
        missing = VolumeList(error="There is no file.")
        running.volumes.publish(VolumeList(volumes=[running.info]) if is_there else missing)
        status = running.status(lambda s: s.last_error != "")
        assert re.search(sentence, status.last_error)
        assert names(status) == []

        # It is opened when the volume comes, however late.
        running.info.uid = "another"
        running.volumes.publish(VolumeList(volumes=[running.info]))
        running.status(lambda s: names(s) == ["of the session"])


def test_a_session_does_not_replace_what_the_journal_kept(tmp_path: Path) -> None:
    session, journal = saved_work(tmp_path / "case.samm"), tmp_path / "journal"
    with apl_msk(tmp_path, journal=journal) as running:
        running.request(asked(1))
        running.answer(answer_to(asked(1)), lambda s: s.applied == 1)
    with apl_msk(tmp_path, journal=journal, session=session) as running:
        status = running.status(lambda s: s.last_error != "")
        assert "The journal has work on the volume" in status.last_error
        assert names(status) == ["liver"]
        opened = running.peer.call(WorkFile, topics.OPEN_WORK, WorkFile.Request(path=str(session)))
        assert opened.success
        running.status(lambda s: names(s) == ["of the session"])
