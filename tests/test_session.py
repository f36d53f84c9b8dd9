# SPDX-License-Identifier: Apache-2.0
"""REL1: a mask is never applied to what it was not computed for, whatever the network does to its message."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from samm_ros.cycle import Answer, CycleCounter, Request, SliceId
from samm_ros.geometry import Plane, VolumeGeometry
from samm_ros.journal import Journal
from samm_ros.mask_codec import MaskEncoding, encode_mask
from samm_ros.prompts import PixelPrompt
from samm_ros.session import ApplySession
from samm_ros.trace import Outcome

GEOMETRIES = {
    "first": VolumeGeometry((5, 6, 7), np.eye(4)),
    "second": VolumeGeometry((7, 6, 5), np.diag([2.0, 1.0, 1.0, 1.0])),
}


def mask_of(request: Request) -> np.ndarray:
    """Each request has a mask of its own: what is applied tells what it was computed for."""
    seed = [request.cycle, request.slice.plane, request.slice.index, len(request.slice.volume_uid)]
    return np.random.default_rng(seed).random(request.shape) < 0.4


def answer_to(request: Request) -> Answer:
    data = encode_mask(mask_of(request))
    return Answer(
        request.cycle,
        request.client_id,
        request.segment,
        request.slice,
        request.shape,
        "m",
        MaskEncoding.BITS_ZLIB,
        data,
    )


class Schedules(RuleBasedStateMachine):
    """Prompts, scrolling, reloads and undo, with answers reordered, duplicated, delayed, dropped and damaged."""

    def __init__(self) -> None:
        super().__init__()
        self.session = ApplySession()
        self.cycles = CycleCounter(0)
        self.flying: list[tuple[Request, Answer]] = []
        self.newest: dict[str, Request] = {}
        self.expected: dict[str, list[np.ndarray]] = {}
        self.undone: dict[str, list[np.ndarray]] = {}
        self.applied_cycle: dict[str, int] = {}

    @initialize()
    def load(self) -> None:
        self.show("first")

    @rule(uid=st.sampled_from(sorted(GEOMETRIES)))
    def show(self, uid: str) -> None:
        self.session.show(uid, GEOMETRIES[uid])
        self.expected.setdefault(uid, [np.zeros(GEOMETRIES[uid].dimensions[::-1], bool)])
        self.undone.setdefault(uid, [])

    @rule(
        client=st.sampled_from("ab"),
        plane=st.sampled_from(Plane),
        index=st.integers(0, 4),
        heard=st.booleans(),
    )
    def prompt(self, client: str, plane: Plane, index: int, heard: bool) -> None:
        uid = self.session.volume_uid
        slice_id = SliceId(uid, plane, index)
        prompt = PixelPrompt(box_xyxy=np.array([0, 0, 2, 2]))
        shape = GEOMETRIES[uid].slice_shape(plane)
        request = Request(self.cycles.next(), client, "liver", slice_id, shape, prompt)
        if heard:
            # The request itself may be lost on its way to APL_MSK.
            self.session.requested(request)
            self.newest[client] = request
        self.flying.append((request, answer_to(request)))

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), keep=st.booleans())
    def deliver(self, data: st.DataObject, keep: bool) -> None:
        """Any answer in flight, in any order; kept, it will come a second time."""
        number = data.draw(st.integers(0, len(self.flying) - 1))
        request, answer = self.flying[number] if keep else self.flying.pop(number)
        outcome, why = self.session.apply(answer)
        shown = request.slice.volume_uid == self.session.volume_uid
        newer = request.cycle > self.applied_cycle.get(request.client_id, 0)
        newest = self.newest.get(request.client_id)
        gone_on = newest is not None and request.cycle < newest.cycle and request.slice != newest.slice
        assert (outcome == Outcome.COMPLETED) == (shown and newer and not gone_on), why
        if outcome == Outcome.COMPLETED:
            self.applied_cycle[request.client_id] = request.cycle
            uid = request.slice.volume_uid
            voxels = self.expected[uid][-1].copy()
            GEOMETRIES[uid].take_slice(voxels, request.slice.plane, request.slice.index)[...] = mask_of(
                request
            )
            self.expected[uid].append(voxels)
            self.undone[uid].clear()

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), damage=st.sampled_from(["truncate", "shape", "index", "volume", "garbage"]))
    def deliver_damaged(self, data: st.DataObject, damage: str) -> None:
        _, answer = self.flying[data.draw(st.integers(0, len(self.flying) - 1))]
        damaged = {
            "truncate": replace(answer, data=answer.data[:-3]),
            "shape": replace(answer, shape=(answer.shape[0] + 1, answer.shape[1])),
            "index": replace(answer, slice=replace(answer.slice, index=99)),
            "volume": replace(answer, slice=replace(answer.slice, volume_uid="another")),
            "garbage": replace(answer, data=b"not zlib"),
        }[damage]
        outcome, why = self.session.apply(damaged)
        assert outcome == Outcome.DROPPED and why

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))

    @rule()
    def undo(self) -> None:
        uid = self.session.volume_uid
        done = self.session.undo()
        assert done == (len(self.expected[uid]) > 1)
        if done:
            self.undone[uid].append(self.expected[uid].pop())

    @rule()
    def redo(self) -> None:
        uid = self.session.volume_uid
        done = self.session.redo()
        assert done == bool(self.undone[uid])
        if done:
            self.expected[uid].append(self.undone[uid].pop())

    @invariant()
    def what_is_shown_is_what_was_asked_for(self) -> None:
        segmentation = self.session.segmentation
        if segmentation is None:
            return
        expected = self.expected[self.session.volume_uid][-1]
        shown = segmentation.layer("liver") if segmentation.segments() else np.zeros_like(expected)
        np.testing.assert_array_equal(shown, expected)


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=300, stateful_step_count=35, deadline=None)


def applied(session: ApplySession, cycle: int, plane: Plane, index: int, segment: str = "") -> None:
    shape = GEOMETRIES["first"].slice_shape(plane)
    prompt = PixelPrompt(box_xyxy=np.array([0, 0, 2, 2]))
    request = Request(cycle, "me", segment, SliceId("first", plane, index), shape, prompt)
    assert session.apply(answer_to(request)) == (Outcome.COMPLETED, "")


def test_a_restarted_client_has_what_was_applied_before(tmp_path) -> None:
    session = ApplySession(Journal(tmp_path / "journal"))
    session.show("first", GEOMETRIES["first"])
    applied(session, 1, Plane.AXIAL, 2, "liver")
    applied(session, 2, Plane.SAGITTAL, 3, "spleen")
    applied(session, 3, Plane.CORONAL, 1, "liver")
    session.undo()

    restarted = ApplySession(Journal(tmp_path / "journal"))
    restarted.show("first", GEOMETRIES["first"])

    np.testing.assert_array_equal(restarted.segmentation.labelmap(), session.segmentation.labelmap())
    assert restarted.redo(), "the undone step can be made again after the restart too"


def test_a_journal_cut_at_any_byte_gives_back_its_whole_lines(tmp_path) -> None:
    path = tmp_path / "journal"
    session = ApplySession(Journal(path))
    session.show("first", GEOMETRIES["first"])
    for cycle in range(1, 4):
        applied(session, cycle, Plane.AXIAL, cycle)
    whole = path.read_bytes()
    line_ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]

    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        journal = Journal(path)
        # A line that lacks only its line end is whole.
        assert len(journal.steps) == sum(end - 1 <= cut for end in line_ends), f"cut at byte {cut}"
        journal.close()


def test_a_flipped_bit_in_the_journal_gives_no_wrong_voxel(tmp_path) -> None:
    path = tmp_path / "journal"
    session = ApplySession(Journal(path))
    session.show("first", GEOMETRIES["first"])
    for cycle in range(1, 4):
        applied(session, cycle, Plane.AXIAL, cycle)
    whole = path.read_bytes()
    steps = Journal(path).steps

    for position in range(0, len(whole), 5):
        flipped = bytearray(whole)
        flipped[position] ^= 0x10
        path.write_bytes(flipped)
        journal = Journal(path)
        assert journal.steps == steps[: len(journal.steps)], f"bit flipped at byte {position}"
        assert len(journal.steps) < 3 or bytes(flipped).count(b"\n") != 3, f"bit flipped at byte {position}"
        journal.close()


def test_a_compacted_journal_leads_to_the_same_voxels(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("samm_ros.session.COMPACT_AFTER", 10)
    session = ApplySession(Journal(tmp_path / "journal"))
    session.show("first", GEOMETRIES["first"])
    for cycle in range(1, 40):
        applied(session, cycle, Plane(cycle % 3), cycle % 5, f"segment {cycle % 2}")
    for _ in range(5):
        assert session.undo()

    restarted = ApplySession(Journal(tmp_path / "journal"))
    restarted.show("first", GEOMETRIES["first"])

    for segment in session.segmentation.segments():
        np.testing.assert_array_equal(
            restarted.segmentation.layer(segment.name), session.segmentation.layer(segment.name)
        )


def test_a_prompt_without_an_answer_makes_what_is_shown_stale() -> None:
    session = ApplySession()
    session.show("first", GEOMETRIES["first"])
    slice_id = SliceId("first", Plane.AXIAL, 1)
    prompt = PixelPrompt(box_xyxy=np.array([0, 0, 2, 2]))
    request = Request(5, "me", "", slice_id, GEOMETRIES["first"].slice_shape(Plane.AXIAL), prompt)
    session.requested(request)
    assert session.stale(after_s=0.0)
    assert not session.stale(after_s=60.0)

    session.apply(answer_to(request))

    assert not session.stale(after_s=0.0)
