# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A client's newest prompt, sent until it is answered: what is lost on each stretch, refused, waited for."""

from __future__ import annotations

import pytest

from samm_core.cycle import pending
from samm_core.cycle.pending import CycleProgress, PendingPrompts
from samm_core.cycle.request import STILL_WAITING, Answer, ClientPrompt
from samm_core.geometry import Plane
from samm_core.prompts import pixel_points
from samm_core.sources.base import ImageId, SliceKey


class _Graph:
    """Notes what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []

    def send(self, prompt: ClientPrompt) -> None:
        self.sent.append((prompt.client_id, prompt.cycle))


def _prompt(client_id: str = "a") -> ClientPrompt:
    return ClientPrompt.of(pixel_points(Plane.AXIAL, 0, [(0, 0)]), client_id, volume_uid="uid")


def _answer(cycle: int, client_id: str = "a", error: str = "") -> Answer:
    return Answer(cycle, client_id, "", ImageId("uid", SliceKey(Plane.AXIAL, 0)), (1, 1), error=error)


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "RESEND_AFTER_S", 0.0)


def test_a_prompt_that_the_graph_did_not_get_is_sent_again_as_the_same_cycle(no_wait) -> None:
    graph, answers = _Graph(), []
    prompts = PendingPrompts(graph.send)
    cycle = prompts.put(_prompt(), answers.append)
    prompts.resend({})
    assert graph.sent == [("a", cycle)] * 2
    prompts.resend({"a": CycleProgress(cycle, 0)})
    assert len(graph.sent) == 2, "SND_INF has it and asks again by itself"
    prompts.answered(_answer(cycle))
    prompts.answered(_answer(cycle))
    prompts.resend({})
    assert [a.cycle for a in answers] == [cycle]
    assert len(graph.sent) == 2


def test_a_mask_lost_on_its_last_stretch_is_asked_for_as_a_new_cycle(no_wait) -> None:
    graph, answers = _Graph(), []
    prompts = PendingPrompts(graph.send)
    lost = prompts.put(_prompt(), answers.append)
    prompts.resend({"a": CycleProgress(lost, lost)})
    again = graph.sent[-1][1]
    assert again > lost
    prompts.answered(_answer(again))
    assert [a.cycle for a in answers] == [again]


@pytest.mark.parametrize("mask_went_by", [False, True])
def test_a_refusal_of_the_segmentation_reaches_the_client_once(no_wait, mask_went_by: bool) -> None:
    graph, answers = _Graph(), []
    prompts = PendingPrompts(graph.send)
    cycle = prompts.put(_prompt(), answers.append)
    if mask_went_by:
        prompts.answered(_answer(cycle))
    for _ in range(2):
        prompts.refused({"a": CycleProgress(cycle, cycle, "The segment's name cannot be written.")})
        prompts.resend({"a": CycleProgress(cycle, cycle, "The segment's name cannot be written.")})
    assert [a.error for a in answers] == [""] * mask_went_by + ["The segment's name cannot be written."]
    assert len(graph.sent) == 1, "what was refused is not asked for again"


def test_a_client_may_be_forgotten_while_refusals_are_passed_on(no_wait) -> None:
    prompts, answers = PendingPrompts(_Graph().send), []

    def answered(answer: Answer) -> None:
        answers.append(answer.client_id)
        prompts.forget(answer.client_id)

    cycles = {name: prompts.put(_prompt(name), answered) for name in ("a", "b")}
    prompts.refused({name: CycleProgress(cycle, cycle, "Refused.") for name, cycle in cycles.items()})
    assert answers == ["a", "b"]


def test_a_clock_that_was_set_back_silences_no_client(no_wait) -> None:
    graph, answers = _Graph(), []
    prompts = PendingPrompts(graph.send)
    cycle = prompts.put(_prompt(), answers.append)
    prompts.resend({"a": CycleProgress(cycle + 10**9, cycle - 1)})
    assert graph.sent[-1][1] > cycle + 10**9


def test_answers_of_a_drag_are_passed_on_and_those_of_others_are_not() -> None:
    graph, answers = _Graph(), []
    prompts = PendingPrompts(graph.send)
    cycles = [prompts.put(_prompt(), answers.append) for _ in range(3)]
    prompts.answered(_answer(cycles[1], "b"))
    for cycle in cycles[:2]:
        prompts.answered(_answer(cycle))
    assert [a.cycle for a in answers] == cycles[:2]
    for _ in range(500):
        prompts.put(_prompt(), answers.append)
    assert sum(len(client.unanswered) for client in prompts._clients.values()) <= pending.REMEMBERED


def test_a_prompt_that_waits_is_told_once_and_its_mask_is_passed_on_when_it_comes(no_wait) -> None:
    graph, answers = _Graph(), []
    prompts = PendingPrompts(graph.send)
    cycle = prompts.put(_prompt(), answers.append)
    waits = f"{STILL_WAITING} The server is starting."
    for _ in range(2):
        prompts.answered(_answer(cycle, error=waits))
        # APL_MSK settles it with the same sentence.
        prompts.refused({"a": CycleProgress(cycle, cycle, waits)})
    prompts.resend({"a": CycleProgress(cycle, cycle, waits)})
    assert graph.sent == [("a", cycle)] * 2, (
        "a SND_INF that was restarted meanwhile gets it, under the same number"
    )
    prompts.answered(_answer(cycle))
    prompts.refused({"a": CycleProgress(cycle, cycle, waits)})
    prompts.resend({"a": CycleProgress(cycle, cycle)})
    assert [a.error for a in answers] == [waits, ""] and len(graph.sent) == 2


def test_a_client_starts_beyond_what_it_had_in_an_earlier_process() -> None:
    assert PendingPrompts(_Graph().send).put(_prompt(), lambda answer: None, beyond=2**60) == 2**60 + 1
