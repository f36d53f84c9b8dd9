# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The objects of a live stream: carried, corrected, doubted, lost and found; keyframes that come late; the loop."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import RATE_HZ, SIDE, Film, disc, scene, texture

from samm_core.embedding.engine import EncodedSlice
from samm_core.errors import NotReadyError, PromptError
from samm_core.models.base import SegmentationModel
from samm_core.prompts import PixelPrompt
from samm_core.stream.frames import Frame
from samm_core.stream.keyframes import KeyframeLoop, between, look
from samm_core.stream.tracker import (
    MAX_OBJECTS,
    Found,
    State,
    Tracker,
    TrackerSettings,
    moved_prompt,
)
from samm_core.tasks.propagation import dice

DATA = Path(os.environ.get("SAMM_TEST_DATA", Path(__file__).parents[5] / "shared" / "data"))


def marked(count: int = 1) -> Film:
    """A film whose disc is marked, and answered by its first keyframe."""
    film = Film()
    film.show(80, 90)
    for n in range(count):
        film.mark(f"disc {n}" if count > 1 else "disc")
    film.keyframe()
    return film


def ground() -> np.ndarray:
    return texture(0, 0, 110)[:SIDE, :SIDE].copy()


def elsewhere() -> np.ndarray:
    return texture(7, 0, 255)[:SIDE, :SIDE].copy()


def test_a_mask_follows_a_known_motion_through_changes_of_gain() -> None:
    film = marked()
    for i in range(1, 46):
        (tracked,) = film.show(80 + 1.8 * i, 90 + i, gain=1 - 0.3 * (i % 10) / 10)
        assert tracked.state is State.TRACKING, tracked.cause
        assert film.dice(tracked) > 0.93, i
        if i % 15 == 0:
            film.keyframe()
    assert not tracked.encoded and tracked.age_s == pytest.approx(15 / RATE_HZ, abs=1e-6)


def test_a_keyframe_that_comes_late_is_brought_forward_to_now() -> None:
    film = Film()
    film.show(80, 90)
    film.mark()
    job = film.tracker.job()
    for i in range(1, 26):
        (tracked,) = film.show(80 + 2 * i, 90 + i)
        assert tracked.state is State.PROMPTED and tracked.mask is None
        assert film.tracker.job() is None
    film.answer(job)
    (now,) = film.tracker.tracks()
    assert film.dice(now) > 0.93 and not now.encoded
    (tracked,) = film.show(132, 116)
    assert tracked.state is State.TRACKING and film.dice(tracked) > 0.93
    assert (tracked.client_id, tracked.cycle) == ("client", 1)


def test_a_keyframe_that_is_answered_before_the_next_frame_is_of_the_frame_that_is_drawn() -> None:
    film = marked()
    film.show(84, 92)
    film.keyframe()
    (tracked,) = film.tracker.tracks()
    assert tracked.encoded and tracked.age_s == 0
    assert film.dice(tracked) > 0.95
    assert film.tracker.job() is None
    film.mark()
    film.keyframe()
    (tracked,) = film.tracker.tracks()
    np.testing.assert_array_equal(tracked.mask, disc(84, 92))


def test_what_has_changed_much_takes_the_models_mask_and_what_has_not_keeps_the_marked_one() -> None:
    film = marked()
    smaller, job = disc(84, 92), None
    smaller[:, :60] = False
    for likeness, agrees in ((1.0, disc(84, 92)), (0.85, smaller)):
        film.show(84, 92)
        job = film.tracker.job()
        (target,) = film.tracker.targets(job)
        film.tracker.answer(job, [Found(replace(target, likeness=likeness), smaller, 0.9, 0.9)])
        (tracked,) = film.show(84, 92)
        assert dice(tracked.mask, agrees) > 0.97


def test_a_mark_on_an_earlier_frame_holds_there_and_is_carried_to_now() -> None:
    film = Film()
    for i in range(30):
        film.show(80 + 2 * i, 90 + i)
    frame = film.mark(frame=film.frames[9])
    job = film.tracker.job()
    assert job.frame is frame
    (target,) = film.answer(job)
    np.testing.assert_array_equal(target.prompt.box_xyxy, film.box(frame).box_xyxy)
    assert not target.moved
    (tracked,) = film.tracker.tracks()
    assert film.dice(tracked) > 0.93


@pytest.mark.parametrize("marked_later", [True, False])
def test_a_mark_is_answered_by_the_keyframe_under_way_and_then_on_its_own_frame(marked_later: bool) -> None:
    film = marked()
    for i in range(1, 20):
        film.show(80 + 2 * i, 90 + i)
        if i == 8:
            job = film.tracker.job()
    frame = film.mark("again", film.frames[14 if marked_later else 4], cycle=7)
    (known, new) = film.answer(job)
    assert known.prompt is None and new.prompt is not None and new.moved
    np.testing.assert_allclose(new.prompt.box_xyxy, film.box(job.frame).box_xyxy, atol=2)
    again = film.tracker.tracks()[1]
    assert again.state is State.TRACKING and again.cycle == 7 and film.dice(again) > 0.9
    # What was marked was marked on that very frame.
    assert film.tracker.job().frame is frame


def test_a_mark_of_the_same_name_is_a_correction_and_touches_no_other() -> None:
    film = marked(2)
    film.show(84, 92)
    before = film.tracker.tracks()
    wrong = PixelPrompt(box_xyxy=[10, 10, 40, 40])
    film.tracker.prompt("disc 0", wrong, film.frames[-1], cycle=5)
    assert [each.state for each in film.tracker.tracks()] == [State.TRACKING] * 2
    job = film.tracker.job()
    corrected, other = film.tracker.targets(job)
    square = np.zeros((SIDE, SIDE), bool)
    square[12:38, 12:38] = True
    film.tracker.answer(job, [Found(corrected, square, 0.9, 1.0), Found(other, disc(84, 92), 0.9, 0.99)])
    after = film.show(88, 94)
    assert [each.label for each in after] == [each.label for each in before] == [1, 2]
    assert after[0].cycle == 5 and dice(after[0].mask, square) > 0.9
    assert after[1].cycle == 1 and film.dice(after[1]) > 0.95


def test_an_object_that_moves_out_of_view_is_lost_and_never_drawn_and_found_when_it_is_back() -> None:
    film = marked()
    places = [80 - 5 * i for i in range(1, 28)]
    for x in places:
        (tracked,) = film.show(x, 90)
        if not film.truth[len(film.frames)].any():
            gone = sum(disc(each, 90).any() for each in places)
            if len(film.frames) - 1 > gone + 0.3 * RATE_HZ:
                assert tracked.state is State.LOST and tracked.mask is None and tracked.cause
    assert tracked.state is State.LOST
    assert film.tracker.job() is None
    drawn = 0
    for x in reversed(places):
        (tracked,) = film.show(x, 90)
        drawn += tracked.mask is not None
    assert drawn and tracked.state is State.UNCERTAIN and "found again" in tracked.cause
    assert film.dice(tracked) > 0.9
    film.keyframe()
    (tracked,) = film.show(75, 90)
    assert tracked.state is State.TRACKING and film.dice(tracked) > 0.93


@pytest.mark.parametrize("pixels", [ground(), elsewhere(), np.zeros((SIDE, SIDE), np.uint8)])
def test_an_object_that_is_gone_from_one_frame_to_the_next_is_lost_within_a_moment(
    pixels: np.ndarray,
) -> None:
    film = marked()
    for i in range(5):
        film.show(80 + i, 90)
    states = [film.show(0, 0, pixels=pixels)[0].state for _ in range(9)]
    assert State.TRACKING not in states and states[-1] is State.LOST


def test_what_the_model_does_not_confirm_is_lost_again_and_not_sought_at_once() -> None:
    film = marked()
    for _ in range(12):
        film.show(0, 0, pixels=ground())
    (tracked,) = film.show(150, 150)
    for _ in range(3):
        (tracked,) = film.show(150, 150)
    assert tracked.state is State.UNCERTAIN
    job = film.tracker.job()
    film.tracker.answer(job, [Found(each, disc(60, 60), 0.9, 0.0) for each in film.tracker.targets(job)])
    for _ in range(10):
        (tracked,) = film.show(150, 150)
        assert tracked.state is State.LOST and tracked.mask is None
    for _ in range(3 * RATE_HZ):
        (tracked,) = film.show(150, 150)
    assert tracked.state is State.UNCERTAIN


def test_a_keyframe_that_disagrees_makes_an_object_uncertain_and_the_next_that_agrees_ends_that() -> None:
    film = marked()
    film.show(82, 90)
    job = film.tracker.job()
    film.tracker.answer(job, [Found(each, disc(150, 150), 0.95, 0.1) for each in film.tracker.targets(job)])
    (tracked,) = film.show(84, 90)
    assert tracked.state is State.UNCERTAIN and "disagree" in tracked.cause
    assert tracked.agreement == pytest.approx(0.1) and film.dice(tracked) > 0.95
    film.keyframe()
    (tracked,) = film.show(86, 90)
    assert tracked.state is State.TRACKING and not tracked.cause


def test_without_an_accepted_keyframe_an_object_is_lost_in_time() -> None:
    film = marked()
    film.tracker.settings = TrackerSettings(stale_s=0.5)
    states = [film.show(80, 90)[0].state for _ in range(20)]
    assert states[5] is State.TRACKING and states[-1] is not State.TRACKING


def test_a_mark_that_is_refused_says_why_and_leaves_the_object_as_it_was() -> None:
    film = marked()
    film.show(82, 90)
    for error, mask in (("This model takes no points.", None), ("", np.zeros((SIDE, SIDE), bool))):
        film.tracker.prompt("disc", PixelPrompt([(82, 90)], [1]), film.frames[-1], "client", 9)
        job = film.tracker.job()
        film.tracker.answer(job, [Found(each, mask, error=error) for each in film.tracker.targets(job)])
        (tracked,) = film.show(82, 90)
        assert tracked.error == error or "finds nothing" in tracked.error
        assert tracked.state is State.TRACKING and tracked.cycle == 1 and film.dice(tracked) > 0.95
    film.tracker.prompt("new", PixelPrompt([(82, 90)], [1]), film.frames[-1])
    job = film.tracker.job()
    film.tracker.answer(job, [Found(each, error="No.") for each in film.tracker.targets(job)])
    new = film.show(82, 90)[1]
    assert new.state is State.PROMPTED and new.error == "No." and new.mask is None


def test_a_mark_waits_while_the_encoder_fails_and_says_why() -> None:
    film = Film()
    film.show(80, 90)
    film.mark()
    film.tracker.answer(film.tracker.job(), error="The model is loading.")
    (tracked,) = film.show(80, 90)
    assert tracked.state is State.PROMPTED and tracked.error == "The model is loading."
    film.keyframe()
    (tracked,) = film.show(80, 90)
    assert tracked.state is State.TRACKING and not tracked.error


def test_a_mark_on_a_frame_that_is_about_to_come_is_taken_and_one_on_a_frame_of_the_past_is_not() -> None:
    film = Film()
    for _ in range(6 * RATE_HZ):
        film.show(80, 90)
    with pytest.raises(PromptError, match="no longer kept"):
        film.mark(frame=film.frames[0])
    coming = Frame(len(film.frames) + 1, film.frames[-1].stamp_ns + 1, 0, scene(80, 90))
    film.tracker.prompt("disc", PixelPrompt([(80, 90)], [1]), coming)
    film.tracker.step(coming)
    assert film.tracker.job().frame is coming


def test_a_keyframe_that_takes_longer_than_frames_are_kept_is_still_answered() -> None:
    film = Film()
    film.show(80, 90)
    film.mark()
    job = film.tracker.job()
    for i in range(7 * RATE_HZ):
        film.show(80 + 20 * np.sin(i / 40), 90)
    film.answer(job)
    (tracked,) = film.tracker.tracks()
    assert tracked.state is State.TRACKING and film.dice(tracked) > 0.93


def test_a_mark_waits_for_its_keyframe_longer_than_frames_are_kept_but_not_for_ever() -> None:
    film = Film()
    film.tracker = Tracker(TrackerSettings(keyframe_s=0, kept_s=0.5, wait_s=2.0))
    film.show(80, 90)
    film.mark("first")
    job = film.tracker.job()
    film.show(82, 90)
    frame = film.mark("second")
    for _ in range(RATE_HZ):
        film.show(82, 90)
    film.tracker.answer(job, error="The encoder was busy.")
    job = film.tracker.job()
    assert job.frame is frame
    for _ in range(2 * RATE_HZ):
        film.show(82, 90)
    film.tracker.answer(job, error="The encoder was busy.")
    film.show(82, 90)
    film.tracker.job()
    assert ["no longer kept" in each.error for each in film.tracker.tracks()] == [True, True]


def test_another_size_and_stamps_that_go_back_lose_all() -> None:
    film = marked()
    (tracked,) = film.tracker.step(Frame(2, 10**12, 0, scene(80, 90, (200, 240))))
    assert tracked.state is State.LOST and "240x240 to 240x200" in tracked.cause and tracked.mask is None
    film = marked()
    film.tracker.prompt("other", PixelPrompt([(80, 90)], [1]), film.frames[-1])
    first, other = film.tracker.step(Frame(2, 0, 0, elsewhere()))
    assert first.state is State.LOST and "went back" in first.cause
    assert other.state is State.PROMPTED and "no answer" in other.error


def test_objects_are_renamed_and_removed_and_their_labels_stay() -> None:
    film = marked(3)
    film.tracker.remove("disc 1")
    film.show(82, 90)
    job = film.tracker.job()
    targets = film.tracker.targets(job)
    film.tracker.rename("disc 2", "liver")
    film.tracker.remove("disc 0")
    film.mark("disc 0")
    # What was found is the renamed object's, and not that of the new one that has an old name.
    film.tracker.answer(job, [Found(each, disc(82, 90), 0.5, 0.9) for each in targets])
    found = {each.name: each for each in film.show(84, 90)}
    assert list(found) == film.tracker.names == ["liver", "disc 0"]
    assert found["liver"].label == 3 and found["liver"].score == 0.5
    assert found["disc 0"].label == 1 and found["disc 0"].state is State.PROMPTED


def test_what_cannot_be_done_is_refused_in_a_sentence() -> None:
    film = marked(2)
    tracker, frame = film.tracker, film.frames[-1]
    point = PixelPrompt([(80, 90)], [1])
    for call, sentence in (
        (lambda: tracker.remove("liver"), "no object 'liver'"),
        (lambda: tracker.rename("liver", "spleen"), "no object 'liver'"),
        (lambda: tracker.rename("disc 0", "disc 1"), "taken"),
        (lambda: tracker.rename("disc 0", ""), "empty"),
        (lambda: tracker.prompt("", point, frame), "no name"),
        (lambda: tracker.prompt("a\nb", point, frame), "printable"),
        (lambda: tracker.prompt("far", PixelPrompt([(999, 9)], [1]), frame), "outside the image of 240x240"),
    ):
        with pytest.raises(PromptError, match=sentence):
            call()
    for n in range(MAX_OBJECTS - 2):
        tracker.prompt(f"more {n}", point, frame)
    with pytest.raises(PromptError, match="32 objects"):
        tracker.prompt("one too many", point, frame)
    assert tracker.names[:2] == ["disc 0", "disc 1"]


def test_a_prompt_moves_with_what_it_marks() -> None:
    prompt = PixelPrompt([(10, 20)], [1], [0, 10, 40, 30])
    turned = np.array([[0.0, -2, 50], [2, 0, 0]])
    moved = moved_prompt(prompt, turned, np.array([1.0, 1.0]))
    np.testing.assert_allclose(moved.points_xy, [[10, 20]], atol=1e-5)
    # The box stays upright: its middle moves, its sides grow.
    np.testing.assert_allclose(moved.box_xyxy, [-30, 20, 50, 60], atol=1e-5)


def test_a_border_between_two_masks() -> None:
    small, large = np.zeros((60, 60), bool), np.zeros((60, 60), bool)
    small[20:40, 20:40] = True
    large[12:48, 12:48] = True
    np.testing.assert_array_equal(between(small, large, 0), small)
    np.testing.assert_array_equal(between(small, large, 1), large)
    half = between(small, large, 0.5)
    assert half[30].sum() == pytest.approx(28, abs=2)
    np.testing.assert_array_equal(between(small, np.zeros_like(small), 0.1), small)


_OPERATIONS = st.one_of(
    st.tuples(st.just("step"), st.integers(0, 3)),
    st.tuples(st.just("cut"), st.just(0)),
    st.tuples(st.just("prompt"), st.integers(0, 2)),
    st.tuples(st.just("job"), st.just(0)),
    st.tuples(st.just("answer"), st.integers(0, 3)),
    st.tuples(st.just("remove"), st.integers(0, 2)),
    st.tuples(st.just("rename"), st.integers(0, 2)),
    st.tuples(st.just("lose"), st.just(0)),
)


@settings(max_examples=60)
@given(st.lists(_OPERATIONS, max_size=40))
def test_whatever_happens_no_job_is_beside_another_nothing_lost_is_drawn_and_labels_stay(
    operations: list[tuple[str, int]],
) -> None:
    film, tracker, job, labels = Film(), None, None, {}
    tracker = film.tracker
    for operation, n in [("step", 0), *operations]:
        name = f"disc {n}"
        if operation == "step":
            film.show(80 + 3 * n, 90)
        elif operation == "cut":
            film.show(0, 0, pixels=ground())
        elif operation == "prompt" and film.truth[len(film.frames)].any():
            try:
                film.mark(name)
            except PromptError:
                # After all was lost, until the next frame.
                continue
        elif operation == "job":
            given_job = tracker.job()
            assert given_job is None or job is None
            job = job or given_job
        elif operation == "answer" and job:
            if n == 0:
                tracker.answer(job, error="No encoder.")
            elif n == 1:
                wrong = disc(200, 200)
                tracker.answer(job, [Found(each, wrong, 0.9, 0.1) for each in tracker.targets(job)])
            else:
                film.answer(job)
            job = None
        elif operation == "remove" and name in tracker.names:
            tracker.remove(name)
            labels.pop(name, None)
        elif operation == "rename" and name in tracker.names and "other" not in tracker.names:
            tracker.rename(name, "other")
            labels.pop(name, None)
        elif operation == "lose":
            tracker.lose_all("The stream was cut.")
            job = None
        check(tracker, labels)


def check(tracker: Tracker, labels: dict[str, int]) -> None:
    tracks = tracker.tracks()
    for each in tracks:
        assert (each.mask is None) == (each.state in (State.PROMPTED, State.LOST)), each
        assert bool(each.cause) == (each.state in (State.UNCERTAIN, State.LOST)), each
        assert each.mask is None or each.mask.dtype == bool
        assert labels.setdefault(each.name, each.label) == each.label
    assert len({each.label for each in tracks}) == len(tracks)


def test_with_a_real_model_the_loop_follows_what_was_marked(lite_medsam: SegmentationModel) -> None:
    film = Film()
    encoded: list[int] = []
    answered = threading.Semaphore(0)

    def embed(frame: Frame) -> Future[EncodedSlice]:
        encoded.append(frame.number)
        future: Future[EncodedSlice] = Future()
        (embedding,) = lite_medsam.encode([frame.image])
        future.set_result(EncodedSlice(embedding, lite_medsam))
        return future

    loop = KeyframeLoop(film.tracker, embed, lambda job: answered.release())
    try:
        film.show(80, 90)
        assert not encoded
        film.mark()
        assert answered.acquire(timeout=60)
        (tracked,) = film.show(83, 92)
        assert tracked.state is State.TRACKING and film.dice(tracked) > 0.9
        assert answered.acquire(timeout=60)
        (tracked,) = film.tracker.tracks()
        assert tracked.encoded and film.dice(tracked) > 0.9 and tracked.agreement > 0.8
        assert encoded == [1, 2]
    finally:
        loop.close()


def test_prompts_that_a_model_does_not_take_are_errors_of_their_own(lite_medsam: SegmentationModel) -> None:
    film = marked(2)
    film.show(80, 90)
    mask = np.zeros((256, 256), np.float32)
    film.tracker.prompt("disc 1", PixelPrompt([(80, 90)], [1], mask_input=mask), film.frames[-1])
    (embedding,) = lite_medsam.encode([film.frames[-1].image])
    targets = film.tracker.targets(film.tracker.job())
    good, bad = look(EncodedSlice(embedding, lite_medsam), targets)
    assert not good.error and good.agreement > 0.8 and "takes no mask" in bad.error and bad.mask is None


def test_a_loop_tells_why_it_cannot_encode_and_closes_while_it_waits() -> None:
    film = Film()
    futures: list[Future] = []
    asked, told = threading.Semaphore(0), threading.Semaphore(0)

    def embed(frame: Frame) -> Future:
        futures.append(Future())
        if len(futures) == 1:
            futures[-1].set_exception(NotReadyError("The model is loading."))
        asked.release()
        return futures[-1]

    loop = KeyframeLoop(film.tracker, embed, lambda job: told.release())
    film.show(80, 90)
    film.mark()
    assert told.acquire(timeout=60)
    (tracked,) = film.show(80, 90)
    assert tracked.error == "The model is loading."
    assert asked.acquire(timeout=60) and asked.acquire(timeout=60)
    loop.close()
    assert futures[-1].cancelled() and "closed" in film.tracker.tracks()[0].error


@pytest.mark.skipif(not DATA.is_dir(), reason=f"There are no test volumes in {DATA}; see SAMM_TEST_DATA.")
def test_streams_with_truth_know_where_their_objects_are() -> None:
    from benchmarks.streams_with_truth import PLANS, streams

    plan = replace(
        next(each for each in PLANS if each.name == "CT, out and back"), seconds=6.0, side=(64, 64)
    )
    plan = replace(plan, path=replace(plan.path, away=(0, -190, 1, 4)))
    (stream,) = streams(DATA, (plan,))
    (truth,) = stream.truth.values()
    assert truth.shape == (180, 64, 64) and len(stream.frames) == 180
    in_view = stream.in_view(next(iter(stream.truth)))
    assert in_view[0] and in_view[-1] and not in_view.all()
    # Seen by its brightness: the spleen is brighter than what is around it on average.
    first = stream.frames[0].pixels
    assert first[truth[0]].mean() > first.mean()


def test_keyframes_that_nobody_asked_for_have_time_between_them() -> None:
    film = Film()
    film.tracker = Tracker(TrackerSettings(keyframe_s=0.5))
    stamps = []
    for i in range(60):
        film.show(100 + i, 120)
        if i == 0:
            film.mark()
        if job := film.tracker.job():
            stamps.append(job.frame.stamp_ns)
            film.answer(job)
    assert len(stamps) == 4 and stamps[0] == film.frames[0].stamp_ns
    assert all(later - earlier >= 500_000_000 for earlier, later in pairwise(stamps))
    # A mark is answered at once.
    film.mark(cycle=2)
    assert film.tracker.job() is not None


def test_on_no_frame_is_a_lost_object_drawn_not_even_on_the_one_where_it_is_lost() -> None:
    film = Film()
    film.show(100, 120)
    film.mark()
    film.keyframe()
    assert film.show(101, 120)[0].mask is not None
    states = []
    for _ in range(20):
        (tracked,) = film.show(0, 0, pixels=np.ascontiguousarray(texture(3, 0, 60)[:SIDE, :SIDE]))
        states.append(tracked.state)
        assert (tracked.mask is None) == (tracked.state is State.LOST)
    assert State.LOST in states and states[0] is not State.LOST


def changed(share: float) -> np.ndarray:
    """The disc at 80, 90 with another texture, to this share: with all of it, hardly like the first."""
    inside = cv2.GaussianBlur(disc(80, 90).astype(np.float32), (0, 0), 1) * share
    other = texture(2, 0, 220)[SIDE : 2 * SIDE, SIDE : 2 * SIDE]
    return (scene(80, 90) * (1 - inside) + other * inside).astype(np.uint8)


def test_what_changes_slowly_is_drawn_as_uncertain_until_a_slow_model_has_seen_it() -> None:
    film = marked()
    for i in range(72):
        (tracked,) = film.show(0, 0, pixels=changed(min(1.0, i / 45)))
        if i == 30:
            job = film.tracker.job()
    # Unlike its keyframe for longer than uncertain_s: what the model says is waited for.
    assert tracked.state is State.UNCERTAIN and "does not look" in tracked.cause
    assert dice(tracked.mask, disc(80, 90)) > 0.9
    film.truth[job.frame.number] = film.truth[len(film.frames)] = disc(80, 90)
    film.answer(job)
    film.keyframe()
    (tracked,) = film.show(0, 0, pixels=changed(1.0))
    assert tracked.state is State.TRACKING and dice(tracked.mask, disc(80, 90)) > 0.9


def test_what_changes_as_much_at_once_is_lost_within_a_moment_and_so_is_what_the_model_denies() -> None:
    film = marked()
    for _ in range(5):
        film.show(80, 90)
    states = [film.show(0, 0, pixels=changed(1.0))[0].state for _ in range(9)]
    assert State.TRACKING not in states and states[-1] is State.LOST

    film = marked()
    for i in range(72):
        film.show(0, 0, pixels=changed(min(1.0, i / 45)))
    job = film.tracker.job()
    film.tracker.answer(job, [Found(each, disc(180, 180), 0.9, 0.0) for each in film.tracker.targets(job)])
    (tracked,) = film.show(0, 0, pixels=changed(1.0))
    assert tracked.state is State.LOST
