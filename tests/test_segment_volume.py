# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Whole structures over real DDS: one mark, all slices, one step of undo; cancelled, refused, beside other prompts."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from peer import Peer
from samm_msgs.action import SegmentVolume
from samm_msgs.msg import Segment, SliceMask, TaskMask
from samm_msgs.srv import EditSegments
from std_msgs.msg import ColorRGBA

from samm_core.cycle.request import Answer, ClientPrompt
from samm_core.embedding.engine import EncodedSlice
from samm_core.errors import MaskError, PromptError
from samm_core.geometry import Plane
from samm_core.mask_codec import encode_mask
from samm_core.models.base import Embedding, SegmentationModel
from samm_core.prompts import Prompt, pixel_box, pixel_points, prompt_on, scribble_prompt
from samm_core.saved_work import load_work
from samm_core.sources.base import ImageId
from samm_core.sources.volume import Volume
from samm_core.tasks.propagation import Mark, Propagated, propagate
from samm_core.tasks.slices import PlaneSlices
from samm_ros import conversions, topics
from samm_ros.client import GraphClient

pytestmark = pytest.mark.xdist_group("graph")

# The brain stem of the sample volume.
MARKED = 100
FIRST, LAST = 98, 102
BOX = (82, 8, 116, 75)
# Of a coronal slice: rows and columns.
SHAPE = (189, 197)


def box(index: int = MARKED, plane: Plane = Plane.CORONAL) -> Prompt:
    return pixel_box(plane, index, *BOX)


@pytest.fixture(scope="module")
def client(shared_graph: str, mni_path) -> Iterator[GraphClient]:
    """Each test has a segment of its own."""
    with GraphClient(shared_graph, f"whole-{uuid.uuid4().hex[:8]}") as client:
        client.load(mni_path)
        yield client


@pytest.fixture
def segment() -> str:
    return f"stem {uuid.uuid4().hex[:6]}"


def voxels(client: GraphClient, segment: str) -> int:
    segments = client.segmentation_of(client.volume.uid).segments
    return next((each.voxels for each in segments if each.name == segment), 0)


def undo_steps(client: GraphClient) -> int:
    return client.segmentation_of(client.volume.uid).undo_steps


def settled(client: GraphClient) -> int:
    return max((c.settled for c in client.segmentation.clients if c.client_id == client.client_id), default=0)


def directly(
    model: SegmentationModel, volume: Volume, embedded: Callable[[Plane, int], Embedding]
) -> dict[int, np.ndarray]:
    """The masks by slice, of the same task without ROS."""

    def embed(image: ImageId) -> Future[EncodedSlice]:
        future: Future[EncodedSlice] = Future()
        future.set_result(EncodedSlice(embedded(image.key.plane, image.key.index), model))
        return future

    _, prompt = box().on_slice(volume.geometry)
    slices = PlaneSlices(volume, Plane.CORONAL, model, embed)
    found = propagate(slices, [Mark(MARKED, prompt=prompt)], between=(FIRST, LAST))
    return {each.index: each.mask for each in found if isinstance(each, Propagated)}


def test_a_box_is_carried_both_ways_as_one_step_of_undo(
    client: GraphClient, segment: str, mni: Volume, lite_medsam: SegmentationModel, embedded
) -> None:
    seen = {}

    result = client.propagate(
        [box()], segment, FIRST, LAST, on_slice=lambda answer: seen.update({answer.image.key.index: answer})
    )

    assert result.success, result.message
    assert sorted(seen) == list(range(FIRST, LAST + 1)) and result.slices >= len(seen)
    assert len(result.stopped) == 2 and all("the range ends" in each for each in result.stopped)
    expected = directly(lite_medsam, mni, embedded)
    for index, answer in seen.items():
        # Another number of threads may round a pixel on the outline the other way.
        assert (answer.mask ^ expected[index]).sum() <= 0.01 * expected[index].sum(), index
    assert voxels(client, segment) == sum(answer.mask.sum() for answer in seen.values())

    client.undo()
    client.wait_for(lambda: voxels(client, segment) == 0, "all of it to be taken back", 30.0)
    client.redo()
    client.wait_for(lambda: voxels(client, segment) > 0, "all of it to be made again", 30.0)
    assert voxels(client, segment) == sum(answer.mask.sum() for answer in seen.values())


def test_a_mask_is_carried_as_it_was_painted(client: GraphClient, segment: str) -> None:
    painted = client.prompt(box(), segment)
    seen = {}
    result = client.propagate(
        [painted], segment, FIRST, LAST, on_slice=lambda answer: seen.update({answer.image.key.index: answer})
    )
    assert result.success and set(seen) == set(range(FIRST, LAST + 1))
    assert (seen[MARKED].mask == painted.mask).all()


def test_cancelled_it_leaves_what_is_done_as_one_step(client: GraphClient, segment: str) -> None:
    seen = []

    def third(answer: Answer) -> bool:
        seen.append(answer)
        return len(seen) < 3

    result = client.propagate([box()], segment, on_slice=third)

    assert not result.success and "Cancelled" in result.message
    assert voxels(client, segment) > 0
    client.undo()
    client.wait_for(lambda: voxels(client, segment) == 0, "all of it to be taken back", 30.0)


def test_a_prompt_is_answered_while_a_task_runs(client: GraphClient, shared_graph: str, segment: str) -> None:
    between = threading.Event()
    answers: list[Answer] = []

    def prompt() -> None:
        with GraphClient(shared_graph, f"beside-{uuid.uuid4().hex[:6]}") as other:
            answers.append(other.prompt(box(MARKED), "beside"))
        between.set()

    asker = threading.Thread(target=prompt)

    def start(answer: Answer) -> None:
        if not asker.ident:
            asker.start()

    result = client.propagate([box()], segment, FIRST, LAST, on_slice=start)
    asker.join(60)
    assert result.success and between.is_set() and answers[0].mask.any()


def test_frozen_slices_are_not_written(client: GraphClient, segment: str) -> None:
    seen = []
    client.propagate(
        [box()],
        segment,
        FIRST,
        LAST,
        frozen=[MARKED + 1],
        on_slice=lambda answer: seen.append(answer.image.key.index),
    )
    assert set(seen) == set(range(FIRST, MARKED + 1))


def goal(**changes: object) -> SegmentVolume.Goal:
    prompts = [conversions.prompt_to_msg(ClientPrompt.of(box()))]
    return SegmentVolume.Goal(**{"plane": int(Plane.CORONAL), "last": -1, "prompts": prompts, **changes})


def painted(mask: np.ndarray) -> SliceMask:
    height, width = mask.shape
    message = SliceMask(height=height, width=width, encoding=SliceMask.BITS_ZLIB, data=encode_mask(mask))
    message.image.plane, message.image.index = int(Plane.CORONAL), MARKED
    return message


def off(index: int) -> list:
    return [conversions.prompt_to_msg(ClientPrompt.of(box(index)))]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: goal(prompts=[]), "no mark"),
        (lambda: goal(task=77), "no task 77"),
        (lambda: goal(plane=9), "no plane 9"),
        (lambda: goal(plane=0), "give one plane"),
        (lambda: goal(prompts=off(5000)), "slice 5000"),
        (lambda: goal(first=50, last=40), "reversed"),
        (lambda: goal(last=100_000), "100000"),
        (lambda: goal(volume_uid="0123456789"), "01234567"),
        (lambda: goal(segment="a\nb"), "cannot be named"),
        (lambda: goal(frozen=[-3]), "-3"),
        (lambda: goal(masks=[SliceMask(height=3, width=3, data=[1])]), "cannot be read"),
        (lambda: goal(prompts=[], masks=[painted(np.ones((3, 3), bool))]), "shape"),
        (lambda: goal(prompts=[], masks=[painted(np.zeros((189, 233), bool))]), "empty|shape"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_and_changes_nothing(
    client: GraphClient, make: Callable[[], SegmentVolume.Goal], sentence: str
) -> None:
    steps = undo_steps(client)
    with pytest.raises(PromptError, match=sentence):
        client.segment_volume(make())
    assert undo_steps(client) == steps
    answer = client.prompt(box(), "after")
    assert answer.mask.any()
    client.wait_for(lambda: settled(client) >= answer.cycle, "the mask to be applied", 30.0)


def test_a_box_in_millimetres_is_segmented_on_every_slice_that_it_crosses(
    client: GraphClient, segment: str, mni: Volume
) -> None:
    x0, y0, x1, y1 = BOX
    corners = [
        mni.geometry.position_of(mni.geometry.ijk_of(np.array([xy]), Plane.CORONAL, index))[0]
        for xy, index in (((x0, y0), FIRST), ((x1, y1), LAST))
    ]
    seen = set()

    result = client.segment_box(
        *corners, segment, Plane.CORONAL, on_slice=lambda answer: seen.add(answer.image.key.index)
    )

    assert result.success and seen == set(range(FIRST, LAST + 1)) and result.slices == len(seen)
    assert voxels(client, segment) > 1000
    client.undo()
    client.wait_for(lambda: voxels(client, segment) == 0, "all of it to be taken back", 30.0)


def test_segments_are_renamed_recoloured_frozen_and_removed(client: GraphClient, segment: str) -> None:
    edits = EditSegments.Request
    client.propagate([box()], segment, MARKED, MARKED + 1)
    other = f"{segment} renamed"
    client.edit_segments(edits.RENAME, segment, new_name=other)
    client.edit_segments(edits.RECOLOR, other, color=ColorRGBA(r=1.0, g=0.5, b=0.25, a=1.0))

    def listed() -> Segment | None:
        segments = client.segmentation_of(client.volume.uid).segments
        return next((each for each in segments if each.name == other), None)

    client.wait_for(lambda: listed() is not None and listed().color.g == 0.5, "the new colour", 30.0)
    held = listed().voxels
    client.edit_segments(edits.FREEZE, other, plane=int(Plane.CORONAL), index=MARKED)
    smaller = pixel_box(Plane.CORONAL, MARKED, 90, 30, 108, 60)
    client.propagate([smaller], other, MARKED, MARKED)
    client.wait_for(lambda: listed().voxels == held, "the frozen slice to be as it was", 30.0)
    client.edit_segments(edits.UNFREEZE, other, plane=int(Plane.CORONAL), index=MARKED)
    client.propagate([smaller], other, MARKED, MARKED)
    client.wait_for(lambda: listed().voxels != held, "the slice to be written", 30.0)
    client.edit_segments(edits.REMOVE, other)
    client.wait_for(lambda: listed() is None, "the segment to go", 30.0)
    client.undo()
    client.wait_for(lambda: listed() is not None, "the segment to come back", 30.0)


@pytest.mark.parametrize(
    ("edit", "fields", "sentence"),
    [
        (0, {"segment": "nobody", "new_name": "x"}, "no segment"),
        (1, {"segment": "nobody"}, "no segment"),
        (2, {"segment": "nobody"}, "no segment"),
        (3, {"order": ["nobody"]}, "order|segments"),
        (4, {"segment": "nobody", "plane": 9}, "no plane 9"),
        (77, {}, "no edit 77"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_in_a_sentence(
    client: GraphClient, edit: int, fields: dict, sentence: str
) -> None:
    with pytest.raises(MaskError, match=sentence):
        client.edit_segments(edit, **fields)


def test_work_is_saved_and_opened_as_one_step_with_the_same_masks(
    client: GraphClient, segment: str, tmp_path: Path, shared_graph: str
) -> None:
    client.propagate([box()], segment, MARKED - 1, MARKED + 1)
    held = voxels(client, segment)
    client.save_work(tmp_path / "case.samm")
    client.edit_segments(EditSegments.Request.REMOVE, segment)
    client.wait_for(lambda: voxels(client, segment) == 0, "the segment to go", 30.0)
    with GraphClient(shared_graph, f"reopens-{uuid.uuid4().hex[:6]}") as other:
        assert other.open_work(tmp_path / "case.samm").uid == client.volume.uid
        other.wait_for(lambda: voxels(other, segment) == held, "the segment to come back", 30.0)
        other.undo()
        other.wait_for(lambda: voxels(other, segment) == 0, "it to be taken back as one step", 30.0)


def test_the_prompts_of_a_segment_are_told_and_saved_with_it(
    client: GraphClient, segment: str, tmp_path: Path, shared_graph: str
) -> None:
    client.prompt(pixel_points(Plane.CORONAL, MARKED, [(99, 40)]), segment, choice=1)
    scribble = scribble_prompt([(90, 20), (99, 60)], SHAPE).joined(scribble_prompt([(20, 30)], SHAPE, False))
    client.prompt(prompt_on(Plane.CORONAL, MARKED + 1, scribble), segment)
    client.prompt(box(), segment)

    def told(client: GraphClient, segment: str = segment) -> list[tuple]:
        found = []
        for prompt in client.prompts_of(segment):
            marks = prompt.in_pixels()
            box_xyxy = tuple(marks.box_xyxy.tolist()) if marks.has_box else ()
            found.append((prompt.slice_index, len(marks.labels), box_xyxy, marks.choice))
        return found

    # The box came last, on the slice of the click.
    expected = [(MARKED + 1, len(scribble.labels), (), 0), (MARKED, 0, BOX, 0)]
    assert told(client) == expected
    client.save_work(tmp_path / "case.samm")
    assert load_work(tmp_path / "case.samm").model == "lite_medsam"
    client.edit_segments(EditSegments.Request.RENAME, segment, new_name=f"{segment} renamed")
    assert told(client, f"{segment} renamed") == expected
    with pytest.raises(MaskError, match="no segment"):
        client.prompts_of(segment)
    with GraphClient(shared_graph, f"reopens-{uuid.uuid4().hex[:6]}") as other:
        other.open_work(tmp_path / "case.samm")
        assert told(other) == expected


def test_the_other_masks_of_a_click_are_given_when_they_are_asked_for(
    client: GraphClient, segment: str
) -> None:
    click = pixel_points(Plane.CORONAL, MARKED, [(99, 40)])
    answers = [client.prompt(click, segment, choice=choice) for choice in range(3)]
    assert [answer.choices for answer in answers] == [3, 3, 3]
    scores = [answer.score for answer in answers]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 3
    assert len({answer.data for answer in answers}) == 3
    client.wait_for(
        lambda: voxels(client, segment) == answers[-1].mask.sum(), "the chosen mask to be applied", 30.0
    )
    with pytest.raises(PromptError, match="proposes 3 masks .* no choice 3; give 0 to 2"):
        client.prompt(click, segment, choice=3)
    assert client.prompt(box(), segment).choices == 1
    with pytest.raises(PromptError, match="proposes 1 mask .* no choice 1"):
        client.prompt(box(), segment, choice=1)


def test_what_is_frozen_is_told(client: GraphClient, segment: str) -> None:
    def frozen() -> set[tuple[int, int]]:
        segments = client.segmentation_of(client.volume.uid).segments
        found = next((each for each in segments if each.name == segment), Segment())
        return set(zip(found.frozen_planes, found.frozen_indices, strict=True))

    client.prompt(box(), segment)
    plane = int(Plane.CORONAL)
    client.wait_for(lambda: frozen() == {(plane, MARKED)}, "the prompted slice to be told", 30.0)
    client.edit_segments(EditSegments.Request.FREEZE, segment, plane=int(Plane.AXIAL), index=7)
    client.wait_for(lambda: frozen() == {(plane, MARKED), (0, 7)}, "the frozen slice to be told", 30.0)
    client.edit_segments(EditSegments.Request.UNFREEZE, segment, plane=plane, index=MARKED)
    client.wait_for(lambda: frozen() == {(0, 7)}, "the released slice to go", 30.0)


# The whole brain: minutes.
LONG_TASK = """
import sys
from samm_core.geometry import Plane
from samm_core.prompts import pixel_box
from samm_ros.client import GraphClient
with GraphClient(sys.argv[1], "killed") as client:
    brain = pixel_box(Plane.CORONAL, 100, 25, 5, 172, 160)
    client.propagate([brain], sys.argv[2], on_slice=lambda answer: print("began", flush=True))
"""


def test_the_task_of_a_client_that_is_killed_ends(
    shared_graph: str, client: GraphClient, segment: str
) -> None:
    asker = subprocess.Popen(
        [sys.executable, "-c", LONG_TASK, shared_graph, segment], stdout=subprocess.PIPE, text=True
    )
    try:
        with Peer(shared_graph.strip("/")) as peer:
            peer.listen(TaskMask, topics.TASK_MASKS, topics.TASKS)
            assert asker.stdout.readline() == "began\n"
            task = peer.wait_for(topics.TASK_MASKS, lambda each: each.mask.client_id == "killed").id
            asker.kill()
            peer.wait_for(topics.TASK_MASKS, lambda each: each.ended and each.id == task)
            assert sum(each.id == task for each in peer.heard[topics.TASK_MASKS]) < 100
    finally:
        asker.kill()
        asker.communicate()
    assert client.prompt(box(), "after").mask.any()


def test_what_is_no_work_or_cannot_be_written_is_refused_in_a_sentence(
    client: GraphClient, tmp_path: Path
) -> None:
    (tmp_path / "bad.samm").write_bytes(b"PK\x03\x04 not ours")
    with pytest.raises(MaskError, match="bad.samm"):
        client.open_work(tmp_path / "bad.samm")
    with pytest.raises(MaskError, match="does not exist"):
        client.save_work(tmp_path / "nowhere" / "case.samm")
    with pytest.raises(MaskError, match="suffix"):
        client.save_work(tmp_path / "case.nii")
