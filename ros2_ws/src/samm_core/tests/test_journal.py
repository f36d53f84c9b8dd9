# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What was applied outlives the process: kills, full disks, damaged files, and files that are no journal."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samm_core.cycle.apply import ApplySession
from samm_core.cycle.request import Answer
from samm_core.errors import MaskError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.latency.events import Outcome
from samm_core.mask_codec import encode_mask
from samm_core.segmentation.journal import Journal, State, Step
from samm_core.segmentation.segmentation import Segment
from samm_core.sources.base import ImageId, SliceKey

VOLUME = "a volume"
GEOMETRY = VolumeGeometry((7, 6, 5), np.eye(4))
# What a child needs to apply masks of 40×40 pixels that do not compress, a new cycle each.
CHILD = """
    import resource, sys
    from pathlib import Path
    import numpy as np
    from samm_core.cycle.request import Answer
    from samm_core.sources.base import ImageId, SliceKey
    from samm_core.geometry import Plane, VolumeGeometry
    from samm_core.segmentation.journal import Journal
    from samm_core.mask_codec import encode_mask
    from samm_core.cycle.apply import ApplySession
    from samm_core.latency.events import Outcome

    path = Path(sys.argv[1])

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    def begin():
        global journal
        journal = Journal(path)
        session = ApplySession(journal)
        session.load("a volume", VolumeGeometry((40, 40, 9), np.eye(4)))
        return session

    def apply(session, cycle):
        mask = np.random.default_rng(cycle).random((40, 40)) < 0.5
        place = ImageId("a volume", SliceKey(Plane.AXIAL, cycle % 9))
        answer = Answer(cycle, "me", "liver", place, (40, 40), data=encode_mask(mask))
        assert session.apply(answer).outcome == Outcome.COMPLETED
"""


def child(program: str, path: Path, **arguments: object) -> subprocess.Popen:
    code = textwrap.dedent(CHILD) + textwrap.dedent(program)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, **arguments
    )


def run_child(program: str, path: Path) -> list[str]:
    """The lines that it prints; it must end well."""
    process = child(program, path, stderr=subprocess.STDOUT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output.splitlines()


def session_of(journal: Journal) -> ApplySession:
    """A client that has just come back."""
    session = ApplySession(journal)
    assert session.load(VOLUME, GEOMETRY) == ""
    return session


def applied(session: ApplySession, cycle: int, plane: Plane, index: int, segment: str = "liver") -> None:
    shape = GEOMETRY.slice_shape(plane)
    mask = np.random.default_rng(cycle).random(shape) < 0.5
    answer = Answer(
        cycle, "me", segment, ImageId(VOLUME, SliceKey(plane, index)), shape, data=encode_mask(mask)
    )
    assert session.apply(answer).outcome == Outcome.COMPLETED


def content(session: ApplySession) -> tuple:
    """All that a user sees of a segmentation."""
    segmentation = session.segmentation()
    segments = [
        (segment, voxels.tobytes(), segmentation.frozen(segment.name))
        for segment, voxels in segmentation.snapshot()
    ]
    return segments, segmentation.undo_steps, segmentation.redo_steps


def written(path: Path, steps: int = 3) -> tuple:
    """A closed journal of some steps, the last undone; what it leads to."""
    journal = Journal(path)
    session = session_of(journal)
    for cycle in range(1, steps + 1):
        applied(session, cycle, Plane(cycle % 3), cycle % 5, f"segment {cycle % 2}")
    session.undo()
    journal.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return content(session)


def in_group(
    session: ApplySession, cycle: int, plane: Plane, index: int, segment: str, group: str
) -> Outcome:
    shape = GEOMETRY.slice_shape(plane)
    mask = np.random.default_rng(cycle).random(shape) < 0.5
    place = ImageId(VOLUME, SliceKey(plane, index))
    ending = session.apply_in_group(Answer(0, "", segment, place, shape, data=encode_mask(mask)), group)
    return ending.outcome


def edited(session: ApplySession, edit: str, number: int) -> None:
    """One of the edits, on one of the segments that there are."""
    segmentation = session.segmentation()
    names = [segment.name for segment in segmentation.segments()]
    if edit == "restore":
        voxels = np.random.default_rng(number).random(GEOMETRY.dimensions[::-1]) < 0.2
        segment = Segment(f"restored {number}", 3, (0.0, 0.5, 1.0))
        segmentation.restore([(segment, voxels, {(Plane.CORONAL, 1)})])
    elif edit == "add":
        segmentation.add(f"added {number}")
    elif edit == "reorder":
        segmentation.reorder(names[::-1])
    elif names:
        name = names[number % len(names)]
        place = Plane(number % 3), number % 5
        {
            "rename": lambda: segmentation.rename(name, f"renamed {number}"),
            "recolor": lambda: segmentation.recolor(name, (number % 7 / 7, 0.5, 1)),
            "remove": lambda: segmentation.remove(name),
            "freeze": lambda: segmentation.freeze(name, *place),
            "unfreeze": lambda: segmentation.unfreeze(name, *place),
        }[edit]()


PLACES = st.tuples(st.sampled_from(Plane), st.integers(0, 4), st.sampled_from("abc"))
EDITS = ["add", "rename", "recolor", "remove", "reorder", "freeze", "unfreeze", "restore"]
STEPS = st.lists(
    st.one_of(
        PLACES,
        st.tuples(PLACES, st.sampled_from(["task 1", "task 2"])),
        st.sampled_from(["undo", "undo", "redo", "restart"]),
        st.sampled_from(EDITS),
    ),
    max_size=60,
)


@settings(max_examples=80)
@given(steps=STEPS, before=st.sampled_from([0, 195, 230]))
def test_a_client_restarted_at_any_step_goes_on_as_if_it_had_not_been(
    tmp_path_factory: pytest.TempPathFactory, steps: list, before: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    steady, journal = ApplySession(), Journal(path)
    steady.load(VOLUME, GEOMETRY)
    kept, tasks = session_of(journal), 0
    warm_up = [(Plane(n % 3), n % 4, "ab"[n % 7 == 0]) for n in range(before)]
    for cycle, step in enumerate([*warm_up, *steps], start=1):
        if step == "restart":
            journal.close()
            journal = Journal(path)
            kept = session_of(journal)
            # A task does not outlive its client; what it did then is a step.
            tasks += 1
        elif step in EDITS:
            edited(kept, step, cycle)
            edited(steady, step, cycle)
        elif isinstance(step, str):
            assert getattr(kept, step)() == getattr(steady, step)()
        elif len(step) == 2:
            place, group = step[0], f"{step[1]} {tasks}"
            assert in_group(kept, cycle, *place, group) == in_group(steady, cycle, *place, group)
        else:
            applied(kept, cycle, *step)
            applied(steady, cycle, *step)
        assert kept.journal_error == ""
    journal.close()

    assert content(session_of(Journal(path))) == content(steady)


@pytest.mark.parametrize("steps", [150, 450])
def test_what_is_edited_and_too_old_to_be_undone_comes_back_too(tmp_path: Path, steps: int) -> None:
    """Every fifth step is an edit: names and keys are long apart, segments removed and made again."""
    steady, journal = ApplySession(), Journal(tmp_path / "journal")
    steady.load(VOLUME, GEOMETRY)
    kept = session_of(journal)
    chance = random.Random(2)
    for cycle in range(1, steps + 1):
        edit = chance.choice(EDITS)
        place = Plane(chance.randrange(3)), chance.randrange(5), chance.choice("abc")
        for session in kept, steady:
            if cycle % 5 == 0:
                edited(session, edit, cycle)
            elif cycle % 3 == 0:
                in_group(session, cycle, *place, f"task {cycle // 9}")
            else:
                applied(session, cycle, *place)
    journal.close()

    journal = Journal(tmp_path / "journal")
    kept = session_of(journal)
    assert content(kept) == content(steady)
    while steady.undo():
        assert kept.undo()
        assert content(kept) == content(steady)
    while steady.redo():
        assert kept.redo()
    assert content(kept) == content(steady)
    segments = len(steady.segmentation().segments())
    # 200 steps, some of which are groups; a mask of each slice and segment, an added segment's row and a list beside them.
    assert len(journal.rows(VOLUME)) < 200 * 3 + (segments + 40) * (15 + 1)


def test_a_journal_of_an_earlier_release_still_opens(tmp_path: Path) -> None:
    """Its table had no groups, and its row of a segment the name alone."""
    path = tmp_path / "journal"
    expected = written(path)
    database = sqlite3.connect(path)
    with database:
        database.execute("ALTER TABLE steps DROP COLUMN step")
        for number, name in database.execute(
            "SELECT id, segment FROM steps WHERE state = ?", (State.SEGMENT,)
        ).fetchall():
            database.execute(
                "UPDATE steps SET data = ?, crc = ? WHERE id = ?", (b"", Step(name).crc(VOLUME), number)
            )
    tables = [sql for (sql,) in database.execute("SELECT sql FROM sqlite_master ORDER BY type DESC")]
    database.close()
    assert tables[0] == (
        "CREATE TABLE steps (id INTEGER PRIMARY KEY, volume_uid TEXT NOT NULL, state INTEGER NOT NULL, "
        "segment TEXT NOT NULL, plane INTEGER NOT NULL, slice INTEGER NOT NULL, height INTEGER NOT NULL, "
        "width INTEGER NOT NULL, data BLOB NOT NULL, crc INTEGER NOT NULL)"
    )
    former = path.read_bytes()

    journal = Journal(path)
    session = session_of(journal)
    assert content(session) == expected
    edited(session, "rename", 1)
    in_group(session, 7, Plane.AXIAL, 3, "by a task", "task")
    expected = content(session)
    journal.close()
    assert content(session_of(Journal(path))) == expected

    # What can be read of a damaged one is taken over.
    path = tmp_path / "damaged"
    path.write_bytes(former[:-4096] + bytes(4096))
    journal = Journal(path)
    assert journal.damage
    assert session_of(journal).segmentation().segments()


def test_a_task_killed_in_the_middle_leaves_one_step_of_what_was_done(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    process = child(
        """
            session = begin()
            apply(session, 4)
            for cycle in range(10, 10**6):
                mask = np.random.default_rng(cycle).random((40, 40)) < 0.5
                place = ImageId("a volume", SliceKey(Plane.AXIAL, cycle % 9))
                session.apply_in_group(Answer(0, "", "by a task", place, (40, 40), data=encode_mask(mask)), "task")
                print(cycle, flush=True)
        """,
        path,
    )
    for line in process.stdout:
        if int(line) >= 60:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()

    printed = run_child(
        """
            session = begin()
            print(journal.damage, [s.name for s in session.segmentation().segments()], session.segmentation().undo_steps)
            made = session.segmentation().labelmap().tobytes()
            session.undo()
            print([s.name for s in session.segmentation().segments()], session.segmentation().undo_steps)
            session.redo()
            print(made == session.segmentation().labelmap().tobytes())
        """,
        path,
    )

    assert printed == [" ['liver', 'by a task'] 2", "['liver'] 1", "True"]


def test_volumes_share_a_journal_and_nothing_else(tmp_path: Path) -> None:
    session = session_of(Journal(tmp_path / "journal"))
    applied(session, 1, Plane.AXIAL, 2)
    session.load("another", GEOMETRY)
    assert not session.undo()
    assert session.segmentation().segments() == []

    session.load(VOLUME, GEOMETRY)

    assert session.undo()


def test_a_day_of_dragging_does_not_fill_the_disk(tmp_path: Path) -> None:
    """At 10 masks a second, 200 of them can be undone, and each slice holds one more."""
    journal = Journal(tmp_path / "journal")
    session = session_of(journal)
    sizes, on_disk = [], []
    for hour in range(3):
        for cycle in range(hour * 1500 + 1, hour * 1500 + 1501):
            applied(session, cycle, Plane.AXIAL, cycle % 5)
        on_disk.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
        journal.fold()
        sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))

    assert sizes[2] <= sizes[0] * 1.1, f"bytes by the hour: {sizes}"
    assert max(on_disk) < 6e6
    assert len(journal.rows(VOLUME)) == 200 + 5 + 1


def test_a_client_killed_in_the_middle_has_all_that_it_reported_as_applied(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    reported = 0
    for life in range(3):
        process = child(
            f"""
                session = begin()
                for cycle in range({reported + 1}, 10**6):
                    apply(session, cycle)
                    print(cycle, flush=True)
            """,
            path,
        )
        for line in process.stdout:
            reported = int(line)
            if reported >= 150 * (life + 1):
                break
        process.send_signal(signal.SIGKILL)
        # What it had printed before it died was reported too.
        reported = max([reported, *map(int, process.stdout.read().split("\n")[:-1])])
        process.wait()

        found = run_child(
            """
                session = begin()
                print(journal.damage)
                print(*[int(session.segmentation().layer("liver")[k].sum()) for k in range(9)])
            """,
            path,
        )
        assert found[0] == ""
        # The step after the last that was reported may be on the disk already.
        expected = []
        for last in reported, reported + 1:
            newest = [max(c for c in range(1, last + 1) if c % 9 == k) for k in range(9)]
            sums = [int((np.random.default_rng(c).random((40, 40)) < 0.5).sum()) for c in newest]
            expected.append(" ".join(map(str, sums)))
        assert found[1] in expected


def test_on_a_full_disk_work_goes_on_is_told_and_is_kept_when_there_is_room(tmp_path: Path) -> None:
    """Full is a limit that the system sets on the size of a file: as real as a full disk, for any user."""
    printed = run_child(
        """
            session = begin()
            for cycle in range(1, 11):
                apply(session, cycle)
            limit(400_000)
            cycle = 11
            while not session.journal_error:
                apply(session, cycle)
                cycle += 1
            print(session.journal_error)
            print(cycle > 12, session.undo(), session.undo(), session.redo())
            for cycle in range(cycle, cycle + 300):
                apply(session, cycle)
            session.retry_journal()
            print(bool(session.journal_error), session.segmentation().undo_steps)
            assert session.undo()
            limit(resource.RLIM_INFINITY)
            session.retry_journal()
            print(repr(session.journal_error))
            apply(session, cycle + 1)
            assert session.undo()
            before = session.segmentation().labelmap().tobytes(), session.segmentation().undo_steps
            journal.close()
            session = begin()
            print(before == (session.segmentation().labelmap().tobytes(), session.segmentation().undo_steps))
        """,
        tmp_path / "journal",
    )

    assert printed[0].startswith("What is applied is not kept: the journal ")
    assert printed[0].endswith("; make room.")
    assert printed[1:] == ["True True True True", "True 200", "''", "True"]


def test_a_client_that_starts_on_a_full_disk_reads_what_is_there_and_serves(tmp_path: Path) -> None:
    printed = run_child(
        """
            session = begin()
            for cycle in range(1, 31):
                apply(session, cycle)
            before = session.segmentation().labelmap().tobytes()
            # The log beside the file stays, as after a kill.
            import os, shutil
            for suffix in "", "-wal":
                shutil.copy(f"{path}{suffix}", f"{path}2{suffix}")
            path = path.with_name(path.name + "2")
            limit(1)
            session = begin()
            print(before == session.segmentation().labelmap().tobytes())
            apply(session, 31)
            print(bool(session.journal_error), session.undo(), session.undo())
            after = session.segmentation().labelmap().tobytes()
            limit(resource.RLIM_INFINITY)
            session.retry_journal()
            journal.close()
            print(begin().segmentation().labelmap().tobytes() == after)
        """,
        tmp_path / "journal",
    )

    assert printed == ["True", "True True True", "True"]


def test_a_journal_begun_on_a_full_disk_is_written_when_there_is_room(tmp_path: Path) -> None:
    printed = run_child(
        """
            limit(1)
            session = begin()
            print(bool(session.journal_error))
            apply(session, 1)
            limit(resource.RLIM_INFINITY)
            session.retry_journal()
            print(repr(session.journal_error))
            journal.close()
            print(begin().segmentation().undo_steps)
        """,
        tmp_path / "journal",
    )

    assert printed == ["True", "''", "1"]


def foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE steps (id INTEGER PRIMARY KEY, volume_uid TEXT)")
        database.execute("INSERT INTO steps VALUES (1, 'theirs')")
    database.close()


def journal_of_another_version(path: Path) -> None:
    written(path)
    with sqlite3.connect(path) as database:
        database.execute("ALTER TABLE steps ADD COLUMN more TEXT")
    database.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("Patient 12: come back on Tuesday.\n"),
        lambda path: path.write_text('8a0b1c2d {"volume_uid": "a", "kind": "apply"}\n'),
        lambda path: path.write_bytes(b"SQLite format 3"),
        lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(84)),
        foreign_database,
        journal_of_another_version,
    ],
    ids=["text", "our former format", "cut magic", "empty header", "database", "another version"],
)
def test_what_is_no_journal_is_refused_in_a_sentence_and_left_as_it_is(tmp_path: Path, make: object) -> None:
    path = tmp_path / "journal"
    make(path)
    before = path.read_bytes()

    with pytest.raises(MaskError, match="cannot be used as a journal .* give another file"):
        Journal(path)

    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["journal"]


def test_a_folder_and_a_pipe_are_no_journal(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in "folder", "pipe":
        with pytest.raises(MaskError, match="it is no file"):
            Journal(tmp_path / name)
    (tmp_path / "file").write_text("x")
    with pytest.raises(MaskError, match="cannot be used as a journal"):
        Journal(tmp_path / "file" / "journal")


def test_a_second_process_on_one_journal_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    process = child(
        "session = begin(); print('open', flush=True); sys.stdin.read()", path, stdin=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(MaskError, match="another process has it"):
            Journal(path)
    finally:
        process.communicate()
    assert Journal(path).error == ""


def test_damage_never_gives_another_mask_and_never_loses_the_file(tmp_path: Path) -> None:
    """Bits flipped and tails cut: what is not reported leads to what was there before, and all bytes are kept."""
    folder = tmp_path / "whole"
    folder.mkdir()
    expected = written(folder / "journal")
    whole = (folder / "journal").read_bytes()
    randomly = random.Random(1)
    flipped = []
    for position in {*range(110), *range(8192, len(whole), 97), *randomly.sample(range(len(whole)), 150)}:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << randomly.randrange(8)
        flipped.append(bytes(damaged))
    told = 0
    for number, damaged in enumerate([*flipped, *(whole[:cut] for cut in range(1, len(whole), 509))]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "journal").write_bytes(damaged)
        try:
            journal = Journal(folder / "journal")
        except MaskError:
            assert (folder / "journal").read_bytes() == damaged
            continue
        session = ApplySession(journal)
        misfit = session.load(VOLUME, GEOMETRY)
        if journal.damage:
            assert (folder / "journal.damaged-1").read_bytes() == damaged
            assert str(folder / "journal.damaged-1") in journal.damage
        told += bool(journal.damage or misfit)
        assert journal.damage or misfit or content(session) == expected, f"damage {number} is not told"
        assert journal.error == ""
        applied(session, 99, Plane.AXIAL, 1)
        assert session.undo()
        journal.close()
    assert told > 50


@pytest.mark.parametrize(
    "changes",
    [
        {"plane": 7},
        {"plane": "axial"},
        {"slice": 99},
        {"slice": -1},
        {"height": 0},
        {"height": 2**40},
        {"width": 5, "height": 5},
        {"segment": "a\tb"},
        {"segment": ""},
        {"segment": b"\xff"},
        {"data": b"no zlib"},
        {"data": "text"},
        {"state": 77},
        {"state": "done"},
        {"crc": 5},
    ],
    ids=str,
)
def test_entries_that_fit_nothing_are_told_in_a_sentence_and_the_others_are_there(
    tmp_path: Path, changes: dict
) -> None:
    """Structure and checksum are right: another program wrote them, or another volume had this name."""
    path = tmp_path / "journal"
    written(path)
    step = Step("segment 1", 0, 3, GEOMETRY.slice_shape(Plane.AXIAL), encode_mask(np.ones((6, 7), bool)))
    row = {
        "id": 1000,
        "volume_uid": VOLUME,
        "state": int(State.DONE),
        "segment": step.segment,
        "plane": step.plane,
        "slice": step.index,
        "height": step.shape[0],
        "width": step.shape[1],
        "data": step.data,
        "crc": 0,
        "step": 0,
        **changes,
    }
    if not changes.keys() & {"crc"} and isinstance(row["segment"], str) and isinstance(row["data"], bytes):
        shape = (row["height"], row["width"])
        row["crc"] = Step(row["segment"], row["plane"], row["slice"], shape, row["data"]).crc(VOLUME)
    database = sqlite3.connect(path)
    with database:
        # The undone one cannot be redone after a new one.
        database.execute("DELETE FROM steps WHERE state = ?", (State.UNDONE,))
        database.execute(f"INSERT INTO steps VALUES ({', '.join('?' * len(row))})", list(row.values()))
    database.close()

    journal = Journal(path)
    session = ApplySession(journal)
    told = session.load(VOLUME, GEOMETRY)

    assert "1 of " in told
    assert "left out" in told
    assert session.last_error == told
    assert session.segmentation().undo_steps == 2
    applied(session, 50, Plane.AXIAL, 1)
    assert session.undo()
    expected = content(session)
    journal.close()
    # Told once: they are not asked for any more, and still in the file.
    journal = Journal(path)
    assert content(session_of(journal)) == expected
    journal.close()
    database = sqlite3.connect(path)
    assert database.execute("SELECT count(*) FROM steps WHERE id = 1000").fetchone() == (1,)
    database.close()
