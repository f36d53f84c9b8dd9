# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""SND_INF without ROS: the newest prompt of each client is answered, or its client told why not."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import numpy as np
import pytest
from geometry_msgs.msg import Point
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from samm_msgs.msg import Prompt as PromptMsg
from samm_msgs.msg import SliceMask, SliceRequest

from samm_core.cycle.newest import HOLD_S, STATUS_WAIT_S, UNANSWERED_S, VOLUME_WAIT_S, Outbox
from samm_core.cycle.request import (
    REMEMBERED_CLIENTS,
    STILL_WAITING,
    Answer,
    ApplyRule,
    ClientPrompt,
    Request,
    UnreadPrompt,
    refusal,
)
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.prompts import MAX_NAME, Prompt
from samm_core.sources.base import ImageId, SliceKey
from samm_core.sources.volume import LoadedVolume
from samm_core.sources.window import Window
from samm_ros import conversions

GEOMETRY = VolumeGeometry((30, 40, 50), np.eye(4))
RESEND_S = 0.5
TICK_S = 0.05


class Bench:
    """An outbox, a clock that the test moves, and what was sent."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.there = True
        self.sent: list[Request | Answer] = []
        self.overtaken = 0
        self.outbox = Outbox(self._send, RESEND_S, lambda: self.there, lambda: self.now)

    def _send(self, message: Request | Answer, prompt: ClientPrompt | None) -> None:
        self.sent.append(message)
        self.overtaken += prompt.overtaken if prompt else 0

    def loaded(self) -> Bench:
        self.outbox.settled({})
        self.outbox.load([volume("shown")])
        return self

    def ask(self, client_id: str = "a", x: float = 5, **changes: object) -> None:
        self.outbox.put(client_prompt(client_id, x, **changes))

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            self.outbox.tick()

    def errors(self) -> list[str]:
        return [message.error for message in self.sent if isinstance(message, Answer)]

    def requests(self) -> list[Request]:
        return [message for message in self.sent if isinstance(message, Request)]


def volume(uid: str) -> LoadedVolume:
    return LoadedVolume(uid, uid, f"/{uid}.nii", GEOMETRY, Window(0, 80))


def client_prompt(client_id: str, x: float = 5, **changes: object) -> ClientPrompt:
    prompt = Prompt(Plane.AXIAL, 3, False, np.array([(x, 5, 0)]), np.ones(1, np.uint8))
    return replace(ClientPrompt.of(prompt, client_id), **changes)


@pytest.fixture
def bench() -> Bench:
    return Bench().loaded()


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.7))
@settings(max_examples=20)
def test_the_newest_prompt_of_each_of_64_clients_is_applied_whatever_is_lost(seed: int, lost: float) -> None:
    chance = random.Random(seed)
    bench, rule = Bench().loaded(), ApplyRule()
    clients = [f"client {n}" for n in range(64)]
    newest = dict.fromkeys(clients, 0.0)
    applied: dict[str, float] = {}
    # Then nothing is lost for a while.
    for step in range(60):
        losing = lost if step < 30 else 0.0
        if step < 30:
            for client_id in chance.sample(clients, 20):
                newest[client_id] = chance.uniform(0, 29)
                bench.ask(client_id, newest[client_id])
        bench.wait(TICK_S)
        sent, bench.sent = bench.sent, []
        for request in sent:
            if chance.random() < losing:
                continue
            rule.requested(request)
            answer = Answer(request.cycle, request.client_id, "", request.image, request.shape)
            if chance.random() < losing:
                continue
            bench.outbox.answered(answer.client_id, answer.cycle, "")
            if chance.random() >= losing and not rule.error(answer, GEOMETRY):
                rule.settled(answer.client_id, answer.cycle)
                applied[answer.client_id] = float(request.prompt.points_xy[0, 0])
        bench.outbox.settled(rule.cycles())
    wanted = {client_id: x for client_id, x in newest.items() if x}
    assert {c: applied.get(c) for c in wanted} == {c: pytest.approx(x, abs=1e-4) for c, x in wanted.items()}


def test_64_clients_in_turn_push_out_none_and_names_at_random_stay_bounded(bench: Bench) -> None:
    for number in range(3):
        for client in range(64):
            bench.ask(f"client {client}", number)
            bench.outbox.answered(f"client {client}", 2**63, "")
    assert not bench.overtaken
    assert len(bench.sent) == 3 * 64
    for number in range(2 * REMEMBERED_CLIENTS):
        bench.ask(f"random {number}")
    assert len(bench.outbox._clients) == REMEMBERED_CLIENTS


def test_a_neighbour_of_a_thousand_prompts_a_second_is_sent_no_more_than_the_server_can_take(
    bench: Bench,
) -> None:
    for number in range(1000):
        bench.now += 0.001
        # Each for another segment: none is for the mask that is worked on.
        bench.ask("fast", segment=str(number))
        if number % 50 == 0:
            bench.outbox.tick()
    assert len(bench.requests()) <= 55
    assert bench.overtaken >= 940
    bench.ask("slow")
    assert bench.requests()[-1].client_id == "slow"


def test_a_prompt_waits_while_the_mask_before_it_is_worked_on_and_no_longer(bench: Bench) -> None:
    for x in range(5):
        bench.now += 0.03
        bench.ask(x=x)
    assert [r.prompt.points_xy[0, 0] for r in bench.requests()] == [0]
    bench.outbox.answered("a", bench.requests()[0].cycle, "")
    assert [r.prompt.points_xy[0, 0] for r in bench.requests()] == [0, 4]
    assert bench.overtaken == 3
    # During an outage requests go on to be sent: what is stale is known by them.
    bench.now += 0.03
    bench.ask(x=7)
    bench.wait(HOLD_S)
    assert bench.requests()[-1].prompt.points_xy[0, 0] == 7


def test_of_the_prompts_of_a_drag_those_that_are_sent_are_read(bench: Bench) -> None:
    read: list[int] = []

    def unread(x: int) -> UnreadPrompt:
        return UnreadPrompt("a", 0, ("one target",), lambda: read.append(x) or client_prompt("a", x))

    for x in range(5):
        bench.now += 0.03
        bench.outbox.put(unread(x))
    assert read == [0]
    bench.outbox.answered("a", bench.requests()[0].cycle, "")
    assert read == [0, 4]
    assert [r.prompt.points_xy[0, 0] for r in bench.requests()] == [0, 4]
    assert bench.overtaken == 3
    # On another volume, the same words are another target.
    bench.outbox.put(unread(6))
    bench.outbox.load([volume("another")])
    bench.wait(0.2)
    assert read[-1] == 6 and bench.requests()[-1].image.source == "another"
    last = bench.requests()[-1].cycle
    bench.outbox.answered("a", last, "")
    bench.outbox.settled({"a": (last, last)})
    bench.wait(0.2)
    assert not bench.outbox.is_busy


def test_a_prompt_that_cannot_be_read_is_refused_to_its_client_which_is_heard_again(bench: Bench) -> None:
    damaged = replace(
        client_prompt("somebody else"), problem="The prompt's message is damaged; prompt again."
    )
    bench.outbox.put(UnreadPrompt("a", 7, (), lambda: damaged))
    (refused,) = bench.sent
    assert (refused.client_id, refused.cycle, refused.error) == ("a", 7, damaged.problem)
    bench.outbox.settled({"a": (7, 7)})
    bench.wait(2.0)
    assert bench.sent == [refused] and not bench.outbox.is_busy
    bench.ask(cycle=8)
    assert [(r.client_id, r.cycle) for r in bench.requests()] == [("a", 8)]


def test_a_prompt_for_a_volume_that_comes_is_sent_and_for_one_that_does_not_is_refused(bench: Bench) -> None:
    bench.ask(image=ImageId("next", SliceKey(Plane.AXIAL, 3)))
    bench.wait(VOLUME_WAIT_S / 2)
    assert not bench.sent
    bench.outbox.load([volume("next")])
    assert [r.image.source for r in bench.requests()] == ["next"]

    bench.sent.clear()
    for _ in range(round(VOLUME_WAIT_S / 0.5) + 1):
        # Dragged: each waits a moment, and yet it is told.
        bench.ask("dragging", image=ImageId("never", SliceKey(Plane.AXIAL, 3)))
        bench.wait(0.5)
    assert "The volume never is not loaded" in bench.errors()[0]


def test_a_prompt_for_the_first_volume_waits_for_it_too() -> None:
    bench = Bench()
    bench.outbox.settled({})
    bench.outbox.unload("There is nothing to segment; load a volume first.")
    bench.ask("early", image=ImageId("first", SliceKey(Plane.AXIAL, 3)))
    bench.wait(VOLUME_WAIT_S / 2)
    assert not bench.sent
    bench.outbox.load([volume("first")])
    assert len(bench.requests()) == 1


def test_each_client_prompts_on_the_volume_that_it_names_in_the_window_that_it_names(bench: Bench) -> None:
    bench.outbox.load([volume("other"), volume("shown")])
    bench.ask("a", image=ImageId("shown", SliceKey(Plane.AXIAL, 3)))
    bench.ask("b", image=ImageId("shown", SliceKey(Plane.AXIAL, 3, Window(-5, 5))))
    bench.ask("c")
    sent = {request.client_id: request.image for request in bench.requests()}
    assert sent["a"] == ImageId("shown", SliceKey(Plane.AXIAL, 3, Window(0, 80)))
    assert sent["b"] == ImageId("shown", SliceKey(Plane.AXIAL, 3, Window(-5, 5)))
    assert sent["c"].source == "other"
    assert not bench.errors()


def test_a_request_whose_volume_was_let_go_is_refused(bench: Bench) -> None:
    bench.outbox.unload("There is nothing to segment; load a volume first.")
    bench.outbox.load([volume("shown")])
    bench.ask()
    cycle = bench.sent[0].cycle
    bench.outbox.load([volume("other")])
    bench.wait(VOLUME_WAIT_S + 1)
    refused = [m for m in bench.sent if isinstance(m, Answer)]
    assert refused[0].cycle == cycle
    assert "is not loaded, or was let go" in refused[0].error


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"segment": "a\tb"}, r"'a\\tb'; give a printable name"),
        ({"segment": "s" * (MAX_NAME + 1)}, "256 characters; give at most 255"),
        ({"client_id": "line\nend"}, "A client cannot be named"),
        ({"client_id": "c" * 300}, "300 characters"),
        ({"prompt": None, "problem": "There is no plane 7."}, "no plane 7"),
        ({"prompt": Prompt(Plane.AXIAL, 3, False, np.full((1, 3), np.nan), np.ones(1))}, "not finite"),
        ({"prompt": Prompt(Plane.AXIAL, 3, False, np.zeros((1, 3)), np.ones(2))}, "2 labels for 1 points"),
    ],
)
def test_what_has_no_answer_is_refused_once_it_is_settled(bench: Bench, changes: dict, sentence: str) -> None:
    client_id = changes.get("client_id", "a")
    bench.outbox.put(client_prompt(**{"client_id": client_id, **changes}))
    (refused,) = bench.sent
    assert re.search(sentence, refused.error), refused.error
    assert refused.client_id == client_id
    bench.wait(2 * RESEND_S)
    assert len(bench.sent) > 1, "a refusal that is lost is sent again"
    bench.outbox.settled({client_id: (refused.cycle, refused.cycle)})
    count = len(bench.sent)
    bench.wait(5)
    assert len(bench.sent) == count


def test_without_a_volume_or_model_a_prompt_is_refused_with_the_reason() -> None:
    bench = Bench()
    bench.outbox.settled({})
    for is_there, sentence in (False, "which volume is loaded"), (True, "still loading its model"):
        bench.outbox.server_is_there = lambda is_there=is_there: is_there
        bench.ask(f"early {is_there}")
        bench.wait(VOLUME_WAIT_S + 0.1)
        assert sentence in bench.errors()[-1]
    bench.outbox.unload("There is no file x.nii; load another.")
    bench.ask("b")
    assert bench.errors()[-1] == "There is no file x.nii; load another."
    bench.outbox.lack_model("There is no model bogus.")
    bench.ask("c")
    assert bench.errors()[-1] == "There is no model bogus."
    bench.outbox.lack_model("")
    bench.outbox.load([volume("shown")])
    bench.ask("d")
    assert bench.requests()[-1].client_id == "d"


any_number = st.floats() | st.floats(-5, 60)
points = st.lists(st.builds(Point, x=any_number, y=any_number, z=any_number), max_size=4)


@given(
    plane=st.integers(0, 255) | st.integers(0, 2),
    index=st.integers(-(2**31), 2**31 - 1) | st.integers(-1, 50),
    uid=st.sampled_from(["", "shown"]),
    coordinates=st.integers(0, 255) | st.integers(0, 1),
    points=points,
    labels=st.lists(st.integers(0, 255) | st.integers(0, 1), max_size=4),
    corners=st.none() | st.tuples(any_number, any_number, any_number, any_number),
    segment=st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=300),
    cycle=st.integers(0, 2**64 - 1),
)
@settings(max_examples=300)
def test_every_prompt_there_can_be_is_sent_or_refused_in_a_sentence(
    plane: int,
    index: int,
    uid: str,
    coordinates: int,
    points: list[Point],
    labels: list[int],
    corners: tuple[float, ...] | None,
    segment: str,
    cycle: int,
) -> None:
    message = PromptMsg(client_id="a", segment=segment, cycle=cycle, coordinates=coordinates, labels=labels)
    message.image.plane, message.image.index, message.image.source = plane, index, uid
    message.points = points
    if corners:
        message.has_box = True
        message.box_min.x, message.box_min.y, message.box_max.x, message.box_max.y = corners
    message = deserialize_message(serialize_message(message), PromptMsg)
    bench = Bench().loaded()
    bench.outbox.put(conversions.prompt_from_msg(message, "me"))
    (sent,) = bench.sent
    assert sent.cycle == cycle or not cycle
    if isinstance(sent, Answer):
        assert sent.error.endswith(".")
        raw = serialize_message(conversions.answer_to_msg(sent, 1, conversions.Time()))
        assert conversions.answer_from_msg(deserialize_message(raw, SliceMask)) == sent
    else:
        raw = serialize_message(conversions.request_to_msg(sent, 1, conversions.Time()))
        assert conversions.request_from_msg(deserialize_message(raw, SliceRequest)).cycle == sent.cycle


def test_while_a_lost_volume_is_loaded_again_nothing_is_refused_or_sent(bench: Bench) -> None:
    bench.ask("before")
    bench.outbox.load([], [volume("shown")], "shown")
    bench.sent.clear()
    bench.ask("during")
    bench.wait(UNANSWERED_S / 2)
    assert not bench.sent
    bench.outbox.load([volume("shown")])
    bench.wait(1)
    assert {r.client_id for r in bench.requests()} == {"before", "during"}
    assert not bench.errors()


def test_who_works_on_a_volume_that_is_back_does_not_wait_for_the_others(bench: Bench) -> None:
    bench.outbox.load([volume("shown")], [volume("other")], "other")
    bench.ask("a", image=ImageId("shown", SliceKey(Plane.AXIAL, 3)))
    bench.ask("b", image=ImageId("other", SliceKey(Plane.AXIAL, 3)))
    bench.ask("c")
    assert [r.client_id for r in bench.requests()] == ["a"]
    bench.outbox.load([volume("other"), volume("shown")])
    assert {r.client_id: r.image.source for r in bench.requests()} == {
        "a": "shown",
        "b": "other",
        "c": "other",
    }
    assert not bench.errors()


@pytest.mark.parametrize("there", [True, False])
def test_a_client_without_an_answer_is_told_once_and_its_late_mask_is_applied(
    bench: Bench, there: bool
) -> None:
    rule = ApplyRule()
    bench.there = there
    bench.ask()
    request = bench.requests()[0]
    rule.requested(request)
    bench.wait(UNANSWERED_S + 1)
    (error,) = bench.errors()
    assert error.startswith(STILL_WAITING)
    assert ("No server takes requests" in error) != there
    rule.settled("a", request.cycle, error)
    bench.outbox.answered("a", request.cycle, error)
    bench.outbox.settled(rule.cycles())
    count = len(bench.sent)
    bench.wait(5)
    assert len(bench.sent) > count, "it is sent again all the same"
    assert len(bench.errors()) == 1

    mask = Answer(request.cycle, "a", "", request.image, request.shape)
    bench.outbox.answered("a", mask.cycle, "")
    assert not rule.error(mask, GEOMETRY)
    rule.settled("a", mask.cycle)
    assert "no newer" in rule.error(mask, GEOMETRY), "once"
    count = len(bench.sent)
    bench.wait(5)
    assert len(bench.sent) == count


def test_a_mask_after_a_final_refusal_of_its_cycle_is_not_applied(bench: Bench) -> None:
    rule = ApplyRule()
    bench.ask()
    request = bench.requests()[0]
    rule.requested(request)
    rule.settled("a", request.cycle, refusal(request, "The point lies outside.").error)
    assert "no newer" in rule.error(Answer(request.cycle, "a", "", request.image, request.shape), GEOMETRY)


def test_cycles_go_on_beyond_what_was_settled_before_the_clock_was_set_back() -> None:
    bench = Bench()
    bench.outbox.load([volume("shown")])
    bench.ask()
    assert not bench.sent, "what was settled is not known yet"
    settled = 2**53
    bench.outbox.settled({"a": (settled, settled - 5)})
    bench.wait(TICK_S)
    assert [r.cycle for r in bench.requests()] == [settled + 1]
    bench.ask("b")
    assert bench.requests()[-1].cycle < settled, "a client's own large number is not everybody's"
    bench.ask("most", cycle=2**64 - 1)
    bench.ask("most")
    assert bench.requests()[-1].cycle == 2**64 - 1


def test_prompts_are_sent_where_nobody_says_what_is_settled() -> None:
    bench = Bench()
    bench.outbox.load([volume("shown")])
    bench.ask()
    bench.wait(STATUS_WAIT_S + 0.1)
    assert bench.requests()


def test_an_answer_that_is_being_applied_is_not_asked_for_again(bench: Bench) -> None:
    """A first encode slower than resend_after: its own second answer is no alarm."""
    bench.ask()
    bench.wait(0.9)
    count = len(bench.sent)
    bench.outbox.answered("a", bench.sent[0].cycle, "")
    bench.wait(0.4)
    assert len(bench.sent) == count
    bench.wait(0.2)
    assert len(bench.sent) == count + 1, "lost on its last hop, it is asked for again"


def test_a_prompt_sent_again_is_the_same_prompt(bench: Bench) -> None:
    bench.ask(cycle=7)
    bench.ask(cycle=7)
    bench.ask(cycle=6)
    assert [r.cycle for r in bench.sent] == [7]
