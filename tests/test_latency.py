# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Recorded sessions: bags that survive, tables with known numbers, losses that are counted."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from ament_index_python.packages import get_package_share_directory
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from samm_msgs.msg import Prompt, SliceMask, SliceRequest, Tracks, VolumeInfo, VolumeList
from samm_msgs.msg import TaskEvent as TaskEventMsg

from samm_core.errors import BagError
from samm_core.geometry import Plane
from samm_core.latency.analysis import analyse, initial_length, losses_of, ratio_of_medians
from samm_core.latency.bag import BagReader, BagWriter, Topic
from samm_core.latency.definitions import definition_of, unlike
from samm_core.latency.events import Completion, Outcome, Task, TaskEvent
from samm_core.latency.session import read_session
from samm_core.prompts import pixel_box
from samm_core.sources.base import ImageId, SliceKey
from samm_ros import cli, conversions, topics
from samm_ros.client import GraphClient
from samm_ros.tools.recorder import definition_here
from samm_ros.tools.replayer import read_script

TOPIC = "/ns/task_events"
TYPE = "samm_msgs/msg/TaskEvent"
SLICE = ImageId("uid", SliceKey(Plane.CORONAL, 7))
# Milliseconds that each task takes, in order: a cycle of 15.
INTERVALS = (1, 2, 3, 4, 5)


def completion(begin_ms: float, factor: float) -> Completion:
    """Of CPL_INF's 3 ms: 0.5 for the embedding, 0.25 for its turn, 2 to decode, 0.125 to pack; slow ones are misses."""
    marks = (begin_ms + factor * at for at in (0.0, 0.5, 0.75, 2.75, 2.875))
    return Completion(factor == 1.0, *(int(mark * 1e6) for mark in marks))


def cycle_events(cycle: int, start_ms: float, factor: float = 1.0, client_id: str = "a") -> list[TaskEvent]:
    events, at = [], start_ms
    for task, interval in zip(Task, INTERVALS, strict=True):
        begin, at = at, at + interval * factor
        stamps = int(begin * 1e6), int(at * 1e6)
        node = f"/ns/{task.name.lower()}"
        done = completion(begin, factor) if task == Task.CPL_INF else None
        events.append(TaskEvent(task, Outcome.COMPLETED, cycle, client_id, SLICE, node, *stamps, done))
    return events


def session(count: int = 40, slow: int = 4) -> list[TaskEvent]:
    """`slow` cycles of 150 ms, then cycles of 15 ms; one every 200 ms."""
    return [
        event
        for n in range(count)
        for event in cycle_events(1000 + n, 200.0 * n, factor=10.0 if n < slow else 1.0)
    ]


def share(package: str) -> Path:
    return Path(get_package_share_directory(package))


def messages(events: Sequence[TaskEvent]) -> list[TaskEventMsg]:
    """Numbered by node, as the nodes do."""
    numbers: dict[str, int] = {}
    result = []
    for event in events:
        numbers[event.node] = numbers.get(event.node, 0) + 1
        result.append(conversions.event_to_msg(event, numbers[event.node], conversions.Time(sec=1)))
    return result


def write_bag(folder: Path, events: Sequence[TaskEvent]) -> Path:
    with BagWriter(folder) as writer:
        writer.add(Topic(TOPIC, TYPE, definition_of(TYPE, share), ""))
        for number, message in enumerate(messages(events)):
            writer.write(TOPIC, serialize_message(message), 10**18 + number)
    return folder


def write_bag_with_rosbags(folder: Path, events: Sequence[TaskEvent], storage: str) -> Path:
    """By a writer that shares no code with ours."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    for name in ("ImageId", "TaskEvent"):
        text = (share("samm_msgs") / "msg" / f"{name}.msg").read_text()
        store.register(get_types_from_msg(text, f"samm_msgs/msg/{name}"))
    with Writer(folder, version=9, storage_plugin=StoragePlugin[storage]) as writer:
        connection = writer.add_connection(TOPIC, TYPE, typestore=store)
        for number, message in enumerate(messages(events)):
            writer.write(connection, 10**18 + number, serialize_message(message))
    return folder


def test_a_session_with_known_stamps_gives_exactly_the_known_table(tmp_path: Path) -> None:
    report = read_session(write_bag(tmp_path / "bag", session())).report
    initial, stable = report.phases
    assert (len(initial.cycles), len(stable.cycles)) == (4, 36)
    assert [row.name for row in stable.rows] == [*(task.name for task in Task), "cycle"]
    for row, expected in zip(stable.rows, (*INTERVALS, 15), strict=True):
        assert row.count == 36
        assert row.percentiles == pytest.approx((expected,) * 4)
        assert row.most == pytest.approx(expected)
    assert [row.name for row in stable.parts] == ["embedding", "queue", "decode", "pack", "overhead"]
    for row, expected in zip(stable.parts, (0.5, 0.25, 2, 0.125, 12.5), strict=True):
        assert row.count == 36
        assert row.percentiles == pytest.approx((expected,) * 4)
    assert (initial.hits, stable.hits) == (0, 36)
    assert initial.rows[-1].percentiles == pytest.approx((150,) * 4)
    # 36 cycles in 35 × 200 + 15 ms.
    assert stable.rate == pytest.approx(36 / 7.015)
    assert stable.jitter == pytest.approx(0)
    assert not report.outliers
    (client,) = report.clients
    assert (client.begun, client.applied) == (40, 40)


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_a_bag_of_an_independent_writer_is_read_the_same(tmp_path: Path, storage: str) -> None:
    ours = read_session(write_bag(tmp_path / "ours", session()))
    theirs = read_session(write_bag_with_rosbags(tmp_path / "theirs", session(), storage))
    assert theirs.report == ours.report
    assert not theirs.cut


def test_an_independent_reader_reads_our_bags(tmp_path: Path) -> None:
    """Types come from the definitions in the bag, QoS and counts from its metadata."""
    from rosbags.highlevel import AnyReader

    events = session(12)
    with AnyReader([write_bag(tmp_path / "bag", events)]) as reader:
        assert [(c.topic, c.msgtype, c.msgcount) for c in reader.connections] == [(TOPIC, TYPE, len(events))]
        read = [reader.deserialize(data, c.msgtype) for c, _, data in reader.messages()]
    assert [(m.cycle, m.task, m.ended_ns, m.image.index) for m in read] == [
        (e.cycle, e.task, e.ended_ns, e.image.key.index) for e in events
    ]


@given(st.randoms(use_true_random=False), st.floats(0, 0.3))
@settings(max_examples=30)
def test_lost_doubled_and_reordered_messages_are_counted_exactly(
    chance: random.Random, share_lost: float
) -> None:
    sent = list(range(1, 201))
    delivered = [n for n in sent if n in (1, 200) or chance.random() >= share_lost]
    doubled = [n for n in delivered if chance.random() < 0.05]
    heard = [("/t", "p", n) for n in (*delivered, *doubled)]
    (loss,) = losses_of(heard)
    assert loss.sent == 200
    assert loss.sent == loss.delivered + loss.lost
    assert (loss.delivered, loss.duplicates) == (len(delivered), len(doubled))


def test_events_that_are_lost_twice_there_or_out_of_order_change_no_other_cycle() -> None:
    events = session()
    chance = random.Random(5)
    lost = {1010: Task.CPL_INF, 1020: Task.APL_MSK}
    kept = [e for e in events if lost.get(e.cycle) != e.task]
    shuffled = [*kept, *chance.sample(kept, 20)]
    chance.shuffle(shuffled)
    report = analyse(shuffled)
    assert {c.cycle for c in report.cycles} == {e.cycle for e in events} - set(lost)
    assert report.stable.rows[-1].percentiles == pytest.approx((15,) * 4)
    (client,) = report.clients
    assert (client.begun, client.applied, client.unanswered) == (40, 39, 1)


def test_cycles_over_two_clocks_are_left_out_and_counted() -> None:
    events = session()
    skewed = [
        TaskEvent(**{**vars(e), "started_ns": e.started_ns - 10**9, "ended_ns": e.ended_ns - 10**9})
        if e.cycle >= 1030 and e.task == Task.CPL_INF
        else e
        for e in events
    ]
    report = analyse(skewed)
    assert report.skewed == 10
    assert {c.cycle for c in report.cycles} == set(range(1000, 1030))


def test_how_cycles_ended_is_told_by_client() -> None:
    def ended(cycle: int, task: Task, outcome: Outcome) -> TaskEvent:
        return TaskEvent(task, outcome, cycle, "b", SLICE, "/n", 0, 1)

    events = [
        *cycle_events(1, 0, client_id="b"),
        ended(2, Task.SND_INF, Outcome.COMPLETED),
        ended(2, Task.RCV_INF, Outcome.REFUSED),
        ended(3, Task.SND_INF, Outcome.COMPLETED),
        ended(3, Task.CPL_INF, Outcome.SUPERSEDED),
        ended(4, Task.SND_INF, Outcome.COMPLETED),
        ended(4, Task.APL_MSK, Outcome.DROPPED),
        ended(5, Task.SND_INF, Outcome.COMPLETED),
        replace(ended(6, Task.SND_INF, Outcome.COMPLETED), overtaken=7),
    ]
    (client,) = analyse(events).clients
    assert tuple(vars(client).values()) == ("b", 13, 1, 1, 8, 1, 2)


def test_an_outlier_is_named() -> None:
    events = [*session(slow=0), *cycle_events(9999, 60_000, factor=20)]
    assert [c.cycle for c in analyse(events).outliers] == [9999]


@pytest.mark.parametrize(("count", "slow", "expected"), [(40, 4, 4), (40, 0, 0), (5, 2, 0), (40, 12, 12)])
def test_the_initialisation_is_found_from_the_cycles(count: int, slow: int, expected: int) -> None:
    cycles = list(analyse(session(count, slow)).cycles)
    assert initial_length(cycles) == expected


def test_a_ratio_has_an_interval_that_holds_the_truth() -> None:
    chance = np.random.default_rng(1)
    ratio, low, high = ratio_of_medians(chance.normal(20, 1, 300), chance.normal(10, 1, 300))
    assert low < 2.0 < high
    assert low <= ratio <= high
    assert high - low < 0.2


def test_images_of_a_live_stream_are_told_from_coming_in_to_their_tracks(tmp_path: Path) -> None:
    bag, kind = tmp_path / "bag", "samm_msgs/msg/Tracks"
    with BagWriter(bag) as writer:
        writer.add(Topic(TOPIC, TYPE, definition_of(TYPE, share), ""))
        writer.add(Topic("/ns/tracks", kind, definition_of(kind, share), ""))
        for message in messages(cycle_events(1, 0.0)):
            writer.write(TOPIC, serialize_message(message), 10**18)
        for frame in range(1, 101):
            told = Tracks(frame=frame, dropped=40 + frame // 10, refused=2, received_ns=frame * 10**7)
            told.published_ns = told.received_ns + (9_000_000 if frame == 100 else 4_000_000)
            writer.write("/ns/tracks", serialize_message(told), 10**18)
        # No image comes any more: the last is told again.
        told.published_ns, told.stale = told.published_ns + 10**9, True
        writer.write("/ns/tracks", serialize_message(told), 10**18)
    followed = read_session(bag).report.followed
    assert (followed.row.count, followed.dropped, followed.refused) == (100, 10, 0)
    assert followed.row.percentiles[0] == pytest.approx(4.0) and followed.row.most == pytest.approx(9.0)
    assert read_session(write_bag(tmp_path / "without", session(8))).report.followed is None


def test_bags_cut_at_two_hundred_places_give_what_they_hold(tmp_path: Path) -> None:
    whole = write_bag(tmp_path / "bag", session(60))
    (file,) = whole.glob("*.mcap")
    data = file.read_bytes()
    chance = random.Random(7)
    cut = tmp_path / "cut"
    cut.mkdir()
    counts = []
    for offset in sorted(chance.sample(range(len(data)), 200)):
        (cut / "bag_0.mcap").write_bytes(data[:offset])
        reader = BagReader(cut)
        counts.append(sum(1 for _ in reader.messages()))
        assert reader.cut
    assert counts == sorted(counts)
    assert counts[-1] == 300


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_damaged_bags_crash_nothing(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    (file,) = write_bag(folder / "bag", session(6, 0)).glob("*.mcap")
    data = bytearray(file.read_bytes())
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 20)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    file.write_bytes(data)
    try:
        read_session(file)
    except BagError as error:
        assert str(error)


def test_what_is_no_bag_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mcap").write_text("not a bag")
    for path, sentence in (("absent", "no bag"), ("empty", "no bag"), ("text.mcap", "no task events")):
        assert cli.main(["latency", str(tmp_path / path)]) == 2
        assert sentence in capsys.readouterr().err
    (tmp_path / "there").mkdir()
    with pytest.raises(BagError, match="there already"):
        BagWriter(tmp_path / "there")


def test_latency_leaves_tables_pictures_and_a_page_that_needs_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    one = write_bag(tmp_path / "one", session())
    two = write_bag(tmp_path / "two", [e for n in range(40) for e in cycle_events(n, 100.0 * n, 2.0)])
    assert cli.main(["latency", str(one), str(two), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "initialisation: 4 cycles" in said
    assert "0.50" in said, "the ratio of 15 to 30 ms"
    found = {file.name: file for file in (tmp_path / "out").iterdir()}
    assert set(found) == {
        "latency.html",
        "latency.json",
        *(f"{n}.{s}" for n in ("events", "cycles") for s in ("png", "svg")),
    }
    page = found["latency.html"].read_text()
    assert page.count("<svg") == 3
    assert "<script" not in page
    assert "src=" not in page
    reports = json.loads(found["latency.json"].read_text())
    assert reports[0]["phases"][1]["rows"][-1]["p50_ms"] == pytest.approx(15)


def mask_of(publisher: str, sequence: int) -> SliceMask:
    return SliceMask(publisher=publisher, sequence=sequence, cycle=sequence)


def write_masks(folder: Path, masks: Sequence[SliceMask], definition: str = "") -> Path:
    """With one cycle's events, as a bag of a session has them."""
    topic, kind = "/ns/masks", "samm_msgs/msg/SliceMask"
    with BagWriter(folder) as writer:
        writer.add(Topic(TOPIC, TYPE, definition_of(TYPE, share), ""))
        writer.add(Topic(topic, kind, definition or definition_of(kind, share), ""))
        for message in messages(session(1, 0)):
            writer.write(TOPIC, serialize_message(message), 10**18)
        for number, mask in enumerate(masks):
            writer.write(topic, serialize_message(mask), 10**18 + number)
    return folder


def test_what_three_nodes_publish_on_one_topic_is_no_loss(tmp_path: Path) -> None:
    heard = [
        ("snd_inf", 3),
        ("cpl_inf", 38),
        ("rcv_inf", 1),
        ("cpl_inf", 39),
        ("snd_inf", 5),
        ("cpl_inf", 40),
    ]
    bag = write_masks(tmp_path / "bag", [mask_of(f"/ns/{node} 0a1b", number) for node, number in heard])
    found = read_session(bag)
    losses = {loss.publisher: loss for loss in found.report.losses if loss.topic == "/ns/masks"}
    assert {name.split()[0]: (loss.sent, loss.lost) for name, loss in losses.items()} == {
        "/ns/cpl_inf": (3, 0),
        "/ns/rcv_inf": (1, 0),
        "/ns/snd_inf": (3, 1),
    }
    assert not found.unnamed


def test_a_bag_whose_messages_name_no_publisher_says_that_losses_may_be_none(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bag = write_masks(tmp_path / "bag", [mask_of("", number) for number in (1, 40)])
    assert read_session(bag).unnamed == ("/ns/masks",)
    assert cli.main(["latency", str(bag), "--output", str(tmp_path / "out")]) == 0
    assert "does not say who published on /ns/masks" in capsys.readouterr().out


def test_events_of_a_node_that_was_started_again_are_no_duplicates(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.add(Topic(TOPIC, TYPE, definition_of(TYPE, share), ""))
        lives = [messages(session(4, 0)), messages([e for n in range(6) for e in cycle_events(n, n * 20)])]
        for message in (message for life in lives for message in life):
            writer.write(TOPIC, serialize_message(message), 10**18)
    losses = read_session(tmp_path / "bag").report.losses
    assert sorted((loss.sent, loss.delivered, loss.duplicates) for loss in losses) == [
        *[(4, 4, 0)] * len(Task),
        *[(6, 6, 0)] * len(Task),
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: text.replace("uint8 coordinates", "bool frozen\nuint8 coordinates"), "'bool frozen'"),
        (lambda text: text.replace("uint8 coordinates", "int8 coordinates"), "'int8 coordinates'"),
        (lambda text: text.replace("geometry_msgs/Point box_max", ""), "lacks the field 'Point box_max'"),
    ],
    ids=["a field more", "another type", "a field less"],
)
def test_prompts_with_other_fields_are_refused_and_never_misread(
    tmp_path: Path, capsys: pytest.CaptureFixture, change: Callable[[str], str], sentence: str
) -> None:
    """PIXEL must not be read as RAS."""
    volume, prompt = "samm_msgs/msg/VolumeInfo", "samm_msgs/msg/Prompt"
    with BagWriter(tmp_path / "bag") as writer:
        writer.add(Topic("/volume_info", volume, definition_of(volume, share), ""))
        writer.add(Topic("/prompts", prompt, change(definition_of(prompt, share)), ""))
        writer.write("/volume_info", serialize_message(VolumeInfo(uid="x", uri="/x.nii")), 1)
        # Read by a definition that is not its own, it may say anything.
        writer.write("/prompts", serialize_message(Prompt(coordinates=Prompt.PIXEL)) + bytes(64), 2)
    assert cli.main(["replay", str(tmp_path / "bag"), "--output", str(tmp_path / "again")]) == 2
    said = capsys.readouterr().err
    assert "another samm_msgs/msg/Prompt than this release" in said
    assert sentence in said
    assert not (tmp_path / "again").exists()


def test_a_definition_reads_the_same_without_comments_and_with_full_names() -> None:
    ours = definition_of("samm_msgs/msg/Prompt", share)
    bare = re.sub(r"#.*", "", ours).replace("MSG: samm_msgs/", "MSG: samm_msgs/msg/")
    assert unlike(bare.replace("ImageId image", "samm_msgs/ImageId   image"), ours) == ""
    assert unlike(ours, ours) == ""


@pytest.mark.xdist_group("graph")
def test_a_failed_replay_leaves_nothing(
    shared_graph: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    volume, prompt = "samm_msgs/msg/VolumeInfo", "samm_msgs/msg/Prompt"
    with BagWriter(tmp_path / "bag") as writer:
        for topic, kind in (("/volume_info", volume), ("/prompts", prompt)):
            writer.add(Topic(topic, kind, definition_of(kind, share), ""))
        writer.write(
            "/volume_info", serialize_message(VolumeInfo(uid="x", uri=str(tmp_path / "absent.nii"))), 1
        )
        writer.write("/prompts", serialize_message(Prompt()), 2)
    output = tmp_path / "again"
    arguments = ["replay", str(tmp_path / "bag"), "--output", str(output), "--namespace", f"/{shared_graph}"]
    failed = subprocess.run(
        [sys.executable, "-m", "samm_ros.cli", *arguments], capture_output=True, text=True, timeout=100
    )
    assert failed.returncode == 2
    assert "no file or folder" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not output.exists()


_FILLS_THE_DISK = """
import resource, sys
from pathlib import Path
from samm_core.errors import BagError
from samm_core.latency.bag import BagReader, BagWriter, Topic
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    with BagWriter(Path(sys.argv[1])) as writer:
        writer.add(Topic("/t", "std_msgs/msg/String", "string data", ""))
        for number in range(1000):
            writer.write("/t", bytes(4) + (96).to_bytes(4, "little") + bytes(96), number + 1)
            writer.flush()
except BagError as error:
    print(error)
"""


def test_a_recording_onto_a_full_disk_ends_with_a_sentence_and_stays_readable(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    command = [sys.executable, "-c", _FILLS_THE_DISK, str(bag)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "cannot be written any more" in said.stdout, said.stderr
    assert "Traceback" not in said.stderr
    assert sum(1 for _ in BagReader(bag).messages()) > 50


def test_an_output_that_cannot_be_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bag = write_bag(tmp_path / "bag", session(3, 0))
    file = tmp_path / "file"
    file.write_text("a file")
    for output in (file, file / "below"):
        assert cli.main(["latency", str(bag), "--output", str(output)]) == 2
        assert "cannot be made" in capsys.readouterr().err
        assert cli.main(["record", str(output)]) == 2
        assert re.search("cannot be made|there already", capsys.readouterr().err)
    assert file.read_text() == "a file"


@pytest.mark.xdist_group("graph")
def test_a_recording_that_is_killed_keeps_all_but_the_last_second(shared_graph: str, tmp_path: Path) -> None:
    """REL9, and the whole way: graph, recorder, kill -9, analysis."""
    bag = tmp_path / "bag"
    command = [sys.executable, "-m", "samm_ros.cli", "record", str(bag), "--namespace", f"/{shared_graph}"]
    recorder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert "Recording" in recorder.stdout.readline()
        with GraphClient(shared_graph, "recorded") as client:
            kept: set[int] = set()
            for number in range(200):
                answer = client.prompt(
                    pixel_box(Plane.AXIAL, 35, 36 + number % 9, 110, 82, 162), segment="recorded"
                )
                kept.add(answer.cycle)
                # The recorder discovers the graph while prompts are answered already.
                if len(_applied(bag)) >= 10:
                    break
        before = _applied(bag)
        recorder.send_signal(signal.SIGKILL)
        recorder.wait()
    finally:
        recorder.kill()
        recorder.wait()
    recorded = read_session(bag)
    assert recorded.cut
    assert len(before) >= 10
    applied = {c.cycle for c in recorded.report.cycles if c.client_id == "recorded"}
    assert applied >= before & kept
    assert {loss.topic.rpartition("/")[2] for loss in recorded.report.losses} >= {
        "task_events",
        "masks",
        "received_masks",
    }


def _applied(bag: Path) -> set[int]:
    """Cycles that the bag holds whole so far."""
    try:
        return {c.cycle for c in read_session(bag).report.cycles if c.client_id == "recorded"}
    except BagError:
        return set()


@pytest.mark.xdist_group("graph")
def test_a_replayed_session_gives_the_same_masks(shared_graph: str, tmp_path: Path, mni_path: Path) -> None:
    """On the same model, in float32: record, replay, and compare the bags. A volume that nobody prompted on may be gone."""
    shifts = [0, 3, 6, 3]
    unused = tmp_path / "unused.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.arange(512, dtype=np.int16).reshape(8, 8, 8), np.eye(4)), unused)
    bag = tmp_path / "bag"
    command = [sys.executable, "-m", "samm_ros.cli", "record", str(bag), "--namespace", f"/{shared_graph}"]
    recorder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert "Recording" in recorder.stdout.readline()
        with GraphClient(shared_graph, "recorded") as client:
            client.load(unused)
            client.load(mni_path)
            for _ in range(30):
                # Until the recorder has discovered the graph.
                client.prompt(pixel_box(Plane.AXIAL, 35, 30, 110, 82, 162), segment="recorded")
                if _applied(bag):
                    break
            for shift in shifts:
                client.prompt(pixel_box(Plane.AXIAL, 35, 36 + shift, 110, 82, 162), segment="recorded")
        recorder.send_signal(signal.SIGINT)
        assert recorder.wait(timeout=30) == 0
    finally:
        recorder.kill()
        recorder.wait()
    assert not read_session(bag).cut
    unused.unlink()

    again = tmp_path / "again"
    arguments = [
        "replay",
        str(bag),
        "--output",
        str(again),
        "--namespace",
        f"/{shared_graph}",
        "--as-fast-as-possible",
    ]
    replayed = subprocess.run(
        [sys.executable, "-m", "samm_ros.cli", *arguments], capture_output=True, text=True, timeout=200
    )
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert _masks(again)[-len(shifts) :] == _masks(bag)[-len(shifts) :]
    assert len(set(_masks(bag)[-len(shifts) :])) == 3
    assert len(_applied(again)) >= len(shifts)


def test_a_script_is_in_order_of_time_whatever_was_written_first(tmp_path: Path) -> None:
    """Topics are recorded side by side: a request may be written before its prompt, and both before their volume."""
    kinds = {topics.VOLUMES: VolumeList, topics.PROMPTS: Prompt, topics.SLICE_REQUESTS: SliceRequest}
    with BagWriter(tmp_path / "bag") as writer:
        for name, kind in kinds.items():
            writer.add(Topic(f"/{name}", *definition_here(kind), ""))

        def write(name: str, message: object, at_ms: int) -> None:
            writer.write(f"/{name}", serialize_message(message), 10**18 + at_ms * 10**6)

        for cycle in (1, 2, 1):
            write(topics.SLICE_REQUESTS, SliceRequest(client_id="a", cycle=cycle), 10 * cycle)
            write(topics.PROMPTS, Prompt(client_id="a", cycle=cycle), 10 * cycle + 1)
        write(topics.VOLUMES, VolumeList(volumes=[VolumeInfo(uid="before", uri="/before.nii")]), 0)
        write(topics.VOLUMES, VolumeList(volumes=[VolumeInfo(uid="after", uri="/after.nii")]), 15)
    script = read_script(tmp_path / "bag")
    assert [(prompt.cycle, prompt.image.source) for _, prompt in script.prompts] == [
        (1, "before"),
        (2, "after"),
    ]
    assert [volume.uid for volume in script.volumes] == ["before", "after"]


def _masks(bag: Path) -> list[bytes]:
    """The masks that were received, in order, each once."""
    masks = {
        recorded.message.cycle: bytes(recorded.message.data)
        for recorded in BagReader(bag).messages("received_masks")
        if recorded.message.client_id == "recorded"
    }
    return [data for _, data in sorted(masks.items())]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["--rate", "0"], "not possible"), (["--loop", "0"], "not possible"), ([], "holds no volume")],
    ids=["rate", "loop", "no volume"],
)
def test_what_cannot_be_replayed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], sentence: str
) -> None:
    bag = write_bag(tmp_path / "bag", session(3, 0))
    assert cli.main(["replay", str(bag), *arguments]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.xdist_group("graph")
def test_top_shows_the_five_tasks(shared_graph: str) -> None:
    command = [
        sys.executable,
        "-m",
        "samm_ros.cli",
        "top",
        "--namespace",
        f"/{shared_graph}",
        "--seconds",
        "8",  # in which it finds the graph, on a busy machine too
    ]
    shown = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "120"}
    )
    assert shown.returncode == 0, shown.stderr
    for task in Task:
        assert task.name in shown.stdout
    assert "slices are embedded" in shown.stdout
