# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""REL1: a mask is never applied to what it was not computed for, whatever the network does to its message."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from samm_core.cycle.apply import ApplySession, ClientState
from samm_core.cycle.request import STILL_WAITING, Answer, CycleCounter, Request
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.latency.events import Outcome
from samm_core.mask_codec import MaskEncoding, encode_mask
from samm_core.prompts import PixelPrompt
from samm_core.sources.base import ImageId, SliceKey

GEOMETRIES = {
    "first": VolumeGeometry((5, 6, 7), np.eye(4)),
    "second": VolumeGeometry((7, 6, 5), np.diag([2.0, 1.0, 1.0, 1.0])),
}


def mask_of(request: Request) -> np.ndarray:
    """Each request has a mask of its own: what is applied tells what it was computed for."""
    seed = [request.cycle, request.image.key.plane, request.image.key.index, len(request.image.source)]
    return np.random.default_rng(seed).random(request.shape) < 0.4


def answer_to(request: Request) -> Answer:
    data = encode_mask(mask_of(request))
    return Answer(
        request.cycle,
        request.client_id,
        request.segment,
        request.image,
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
    def load_first(self) -> None:
        self.load("first")

    @rule(uid=st.sampled_from(sorted(GEOMETRIES)))
    def load(self, uid: str) -> None:
        self.loaded_last = uid
        self.session.load(uid, GEOMETRIES[uid])
        self.expected.setdefault(uid, [np.zeros(GEOMETRIES[uid].dimensions[::-1], bool)])
        self.undone.setdefault(uid, [])

    @rule(
        client=st.sampled_from("ab"),
        uid=st.sampled_from(sorted(GEOMETRIES)),
        plane=st.sampled_from(Plane),
        index=st.integers(0, 4),
        heard=st.booleans(),
    )
    def prompt(self, client: str, uid: str, plane: Plane, index: int, heard: bool) -> None:
        """Also on a volume that APL_MSK has not heard of yet."""
        image = ImageId(uid, SliceKey(plane, index))
        prompt = PixelPrompt(box_xyxy=np.array([0, 0, 2, 2]))
        shape = GEOMETRIES[uid].slice_shape(plane)
        request = Request(self.cycles.next(), client, "liver", image, shape, prompt)
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
        ending = self.session.apply(answer)
        known = request.image.source in self.expected
        newer = request.cycle > self.applied_cycle.get(request.client_id, 0)
        newest = self.newest.get(request.client_id)
        gone_on = newest is not None and request.cycle < newest.cycle and request.image != newest.image
        assert (ending.outcome == Outcome.COMPLETED) == (known and newer and not gone_on), ending
        client = self.session.clients().get(request.client_id)
        assert ending.outcome == Outcome.COMPLETED or not ending.is_problem
        if ending.outcome == Outcome.COMPLETED:
            assert client.error == ""
            self.applied_cycle[request.client_id] = request.cycle
            uid = request.image.source
            voxels = self.expected[uid][-1].copy()
            GEOMETRIES[uid].take_slice(voxels, request.image.key.plane, request.image.key.index)[...] = (
                mask_of(request)
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
            "index": replace(
                answer, image=ImageId(answer.image.source, SliceKey(answer.image.key.plane, 99))
            ),
            "volume": replace(answer, image=replace(answer.image, source="another")),
            "garbage": replace(answer, data=b"not zlib"),
        }[damage]
        newest = self.newest.get(answer.client_id)
        asked = newest and (newest.cycle, newest.image) == (damaged.cycle, damaged.image)
        before = self.session.clients().get(answer.client_id)
        ending = self.session.apply(damaged)
        assert ending.outcome != Outcome.COMPLETED and ending.why
        client = self.session.clients().get(answer.client_id)
        if client and (before is None or client.settled > before.settled):
            # What was asked for in these words has its answer: a refusal, which the client hears.
            assert client.settled == damaged.cycle and client.error == ending.why
            assert asked or newest.cycle > damaged.cycle
            self.applied_cycle[answer.client_id] = damaged.cycle

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))

    @rule(named=st.booleans())
    def undo(self, named: bool) -> None:
        uid = self.loaded_last
        done = self.session.undo(uid if named else "")
        assert done == (len(self.expected[uid]) > 1)
        if done:
            self.undone[uid].append(self.expected[uid].pop())

    @rule(named=st.booleans())
    def redo(self, named: bool) -> None:
        uid = self.loaded_last
        done = self.session.redo(uid if named else "")
        assert done == bool(self.undone[uid])
        if done:
            self.expected[uid].append(self.undone[uid].pop())

    @invariant()
    def each_volume_holds_what_was_requested_of_it(self) -> None:
        assert list(self.session.segmentations)[-1:] == ([self.loaded_last] if self.expected else [])
        for uid, segmentation in self.session.segmentations.items():
            expected = self.expected[uid][-1]
            held = segmentation.layer("liver") if segmentation.segments() else np.zeros_like(expected)
            np.testing.assert_array_equal(held, expected)


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=150, stateful_step_count=35, deadline=None)


SHAPE = GEOMETRIES["first"].slice_shape(Plane.AXIAL)


def request(cycle: int, index: int = 1, segment: str = "liver", uid: str = "first") -> Request:
    image = ImageId(uid, SliceKey(Plane.AXIAL, index))
    shape = GEOMETRIES[uid].slice_shape(Plane.AXIAL) if uid in GEOMETRIES else SHAPE
    return Request(cycle, "me", segment, image, shape, PixelPrompt(box_xyxy=np.array([0, 0, 2, 2])))


@pytest.fixture
def session() -> ApplySession:
    session = ApplySession()
    session.load("first", GEOMETRIES["first"])
    return session


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """What time it is, to be set."""
    now = [1000.0]
    monkeypatch.setattr("samm_core.cycle.apply.time.monotonic", lambda: now[0])
    yield now


def test_in_a_drag_without_answers_what_is_shown_is_stale_since_the_first_of_its_prompts(
    session: ApplySession, clock: list[float]
) -> None:
    """10 prompts a second, and the server stops: the newest prompt is never old."""
    for cycle in range(1, 6):
        clock[0] += 0.1
        session.requested(request(cycle))
        assert not session.stale(0.3)
        session.apply(answer_to(request(cycle)))
    became_stale = None
    for cycle in range(6, 20):
        clock[0] += 0.1
        session.requested(request(cycle))
        if session.stale(0.3) and became_stale is None:
            became_stale = cycle
    assert became_stale is not None and became_stale <= 6 + 4

    session.apply(answer_to(request(19)))

    assert not session.stale(0.0)


def test_answers_that_lag_a_prompt_behind_do_not_look_stale(
    session: ApplySession, clock: list[float]
) -> None:
    for cycle in range(1, 30):
        clock[0] += 0.1
        session.requested(request(cycle))
        session.apply(answer_to(request(cycle - 1)))
        assert not session.stale(0.3)


def test_a_request_sent_again_does_not_look_younger(session: ApplySession, clock: list[float]) -> None:
    for _ in range(5):
        session.requested(request(1))
        clock[0] += 0.1
    assert session.stale(0.4)


@pytest.mark.parametrize("segment", ["a\tb", "a\nb", "\0"])
def test_a_segment_name_that_cannot_be_settles_the_cycle_with_an_error(
    session: ApplySession, segment: str
) -> None:
    session.requested(request(5, segment=segment))

    ending = session.apply(answer_to(request(5, segment=segment)))

    assert ending.outcome == Outcome.REFUSED
    assert "cannot be named" in ending.why
    assert session.clients() == {"me": ClientState(5, 5, ending.why)}
    assert session.last_error == ending.why
    assert (session.counts.applied, session.counts.refused, session.counts.dropped) == (0, 1, 0)
    assert not session.stale(0.0)


def test_one_segment_too_many_is_refused_and_the_next_mask_clears_the_error(session: ApplySession) -> None:
    for number in range(255):
        session.segmentation().add(str(number))
    session.requested(request(1, segment="one more"))
    session.requested(request(2, segment="one more"))

    # In a drag the answer may lag behind.
    assert session.apply(answer_to(request(1, segment="one more"))).outcome == Outcome.REFUSED
    ending = session.apply(answer_to(request(2, segment="one more")))
    assert "255 segments already" in session.clients()["me"].error == ending.why

    session.requested(request(3, segment="7"))
    assert session.apply(answer_to(request(3, segment="7"))).outcome == Outcome.COMPLETED
    assert session.clients()["me"] == ClientState(3, 3, "")
    assert session.last_error == ""


def test_a_mask_that_does_not_fit_what_was_asked_for_is_refused(session: ApplySession) -> None:
    session.requested(request(1))

    ending = session.apply(replace(answer_to(request(1)), shape=(3, 3)))

    assert ending.outcome == Outcome.REFUSED
    assert session.clients()["me"] == ClientState(1, 1, ending.why)


@pytest.mark.parametrize("change", [{"segment": "a\tb"}, {"shape": (3, 3)}, {"data": b"x"}], ids=str)
def test_what_nobody_asked_for_settles_nothing(session: ApplySession, change: dict) -> None:
    """Or a forger's cycle, which may be any number, would keep the client's own masks out."""
    session.requested(request(1))

    assert session.apply(replace(answer_to(request(10**6)), **change)).outcome == Outcome.DROPPED

    assert session.apply(answer_to(request(1))).outcome == Outcome.COMPLETED


def test_a_second_answer_to_a_request_sent_again_is_no_problem(session: ApplySession) -> None:
    """Nor is a second refusal, after the next prompt was answered: nothing is wrong any more."""
    refused = replace(answer_to(request(1)), data=b"", error="The model takes no points.")
    session.requested(request(1))
    session.apply(refused)
    session.requested(request(2))
    session.apply(answer_to(request(2)))

    for second in refused, answer_to(request(2)):
        ending = session.apply(second)
        assert (ending.outcome, ending.is_problem) == (Outcome.DROPPED, False)

    assert session.counts.dropped == 2
    assert session.last_error == ""
    assert session.clients()["me"] == ClientState(2, 2, "")


def test_a_mask_for_where_its_client_was_before_is_dropped_without_a_word(session: ApplySession) -> None:
    session.requested(request(1, index=1))
    session.requested(request(2, index=2))

    ending = session.apply(answer_to(request(1, index=1)))

    assert (ending.outcome, ending.is_problem) == (Outcome.DROPPED, False)
    assert session.clients()["me"] == ClientState(2, 0, "")


def test_a_mask_is_applied_to_its_volume_though_another_was_loaded_since(session: ApplySession) -> None:
    session.requested(request(1))
    session.load("second", GEOMETRIES["second"])

    assert session.apply(answer_to(request(1))).outcome == Outcome.COMPLETED

    assert session.clients()["me"] == ClientState(1, 1, "")
    assert session.segmentation("first").layer("liver").any()
    assert session.segmentation().segments() == []
    assert not session.undo()
    assert session.undo("first")


def test_a_mask_for_a_volume_that_is_heard_of_a_moment_later_is_requested_again(
    session: ApplySession,
) -> None:
    asked = request(1, uid="second")
    session.requested(asked)

    ending = session.apply(answer_to(asked))

    assert (ending.outcome, ending.is_problem) == (Outcome.DROPPED, False)
    assert session.clients()["me"] == ClientState(1, 0, "")
    session.load("second", GEOMETRIES["second"])
    session.requested(asked)
    assert session.apply(answer_to(asked)).outcome == Outcome.COMPLETED


def test_a_mask_may_follow_the_refusal_that_said_it_would(session: ApplySession) -> None:
    session.requested(request(1))
    waiting = replace(answer_to(request(1)), data=b"", error=f"{STILL_WAITING} Its slice is being embedded.")
    assert session.apply(waiting).outcome == Outcome.REFUSED
    assert session.clients()["me"].error == waiting.error

    assert session.apply(answer_to(request(1))).outcome == Outcome.COMPLETED
    assert session.clients()["me"] == ClientState(1, 1, "")


def test_a_prompt_without_an_answer_makes_what_is_shown_stale(session: ApplySession) -> None:
    session.requested(request(5))
    assert session.stale(after_s=0.0)
    assert not session.stale(after_s=60.0)

    session.apply(answer_to(request(5)))

    assert not session.stale(after_s=0.0)


def test_a_mask_brings_the_prompt_that_it_answers_and_its_model(session: ApplySession) -> None:
    asked = [
        replace(request(cycle), prompt=PixelPrompt([[cycle, 1]], [1], choice=cycle % 3))
        for cycle in range(1, 4)
    ]
    for each in asked:
        session.requested(each)
    segmentation = session.segmentation("first")
    # Of a drag, each answer comes: also that to a prompt which is not the newest any more.
    for each in asked:
        assert session.apply(answer_to(each)).outcome == Outcome.COMPLETED
        assert segmentation.prompts() == [("liver", Plane.AXIAL, 1, each.prompt)]
    assert session.models == {"first": "m"}


def test_a_mask_whose_request_is_not_known_or_is_for_another_place_brings_no_prompt(
    session: ApplySession,
) -> None:
    session.requested(request(1, index=2))
    assert session.apply(answer_to(request(2))).outcome == Outcome.COMPLETED
    session.requested(replace(request(3), prompt=PixelPrompt([[99, 99]], [1])))
    assert session.apply(answer_to(request(3))).outcome == Outcome.COMPLETED
    assert session.segmentation("first").prompts() == []
