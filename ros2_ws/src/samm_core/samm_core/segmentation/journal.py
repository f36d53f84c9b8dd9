# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What was applied, on disk as it happens, so that a killed client comes back with it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from ..errors import MaskError
from .segment_list import decode_list

# "SAMM", in SQLite's header: whose database it is.
_APPLICATION_ID = 0x53414D4D
_MAGIC = b"SQLite format 3\0"
# How long a process that was just killed may still hold the file.
_BUSY_S = 2.0
# Of releases that knew no groups.
_FORMER_TABLE = (
    "CREATE TABLE steps (id INTEGER PRIMARY KEY, volume_uid TEXT NOT NULL, state INTEGER NOT NULL, "
    "segment TEXT NOT NULL, plane INTEGER NOT NULL, slice INTEGER NOT NULL, height INTEGER NOT NULL, "
    "width INTEGER NOT NULL, data BLOB NOT NULL, crc INTEGER NOT NULL)"
)
_GROUP = "step INTEGER NOT NULL DEFAULT 0"
# What SQLite makes of it when the column is added.
_TABLE = f"{_FORMER_TABLE[:-1]}, {_GROUP})"
_INDEX = "CREATE INDEX steps_by_slice ON steps (volume_uid, state, segment, plane, slice)"
_COLUMNS = "id, volume_uid, state, segment, plane, slice, height, width, data, crc, step"
_ALL = f"SELECT {_COLUMNS} FROM steps ORDER BY id"
_INSERT = f"INSERT INTO steps ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
# Which step of undo a row is of: rows of a group share one number, that of the first of them.
_STEP = "CASE step WHEN 0 THEN id ELSE step END"
# In a row's plane: it is no mask but the list of all segments, their names, colours and frozen slices.
LIST_PLANE = 3

_OF_VOLUME = "volume_uid = ? AND state = ?"

_Statement = tuple[str, tuple]


class State(IntEnum):
    """What a row is: a segment that was added; what is too old to be undone, what is done, or undone; what fits no volume."""

    # One wrong bit makes none of these another: the checksum is of the step alone.
    SEGMENT = 0b00011
    FIXED = 0b00101
    DONE = 0b00110
    UNDONE = 0b01001
    LEFT_OUT = 0b01010


@dataclass(frozen=True)
class Step:
    """A mask that was applied: all that a slice of a segment held then, (rows, columns) `shape`, `data` of encode_mask.

    segment: its key, the name that it had first, which is no other segment's of the volume. plane: LIST_PLANE for a list of
    segments in `data`. group: 0 for what the user did; equal for what a task did in one step.
    """

    segment: str
    plane: int = 0
    index: int = 0
    shape: tuple[int, int] = (0, 0)
    data: bytes = b""
    group: int = 0

    def crc(self, volume_uid: str) -> int:
        numbers = f"{volume_uid}\0{self.segment}\0{self.plane} {self.index} {self.shape[0]} {self.shape[1]}\0"
        if self.group:
            numbers += f"{self.group}\0"
        return zlib.crc32(self.data, zlib.crc32(numbers.encode()))


@dataclass(frozen=True)
class Row:
    """A row of a volume's history; step is None where it is damaged."""

    number: int
    state: State
    step: Step | None


class Journal:
    """The history of each volume, in an SQLite database of one table, a transaction a row. Not thread-safe.

    A kill of this process loses nothing that `add`, `apply`, `undo` or `redo` has returned from; of a group that was under way,
    what was applied is one step. The database is in WAL mode with `synchronous = NORMAL`: after a power cut it is whole, but the
    steps of the last seconds, which the operating system had not yet written, may be missing.

    The file is bounded by the volume, not by how long one works: of what is too old to be undone, only the last mask of
    each slice and segment stays, and the last list of segments.

    What cannot be written, as the disk is full, is kept in memory, and `retry` writes it as soon as there is room; `error`
    says so meanwhile.
    """

    def __init__(self, path: Path) -> None:
        """Open the journal or begin one. One process has it at a time.

        A damaged one is renamed, what can be read of it is taken over, and `damage` says so. Raises MaskError for a file
        that is no journal, that cannot be opened, or that another process has; it is left as it is.
        """
        self.path = Path(path)
        # Why what is applied is not on the disk, and what of the file was damaged, a sentence each; empty: all is well.
        self.error = ""
        self.damage = ""
        # All rows once more: they can always be written, and the file may vanish.
        self._memory = _connect(":memory:")
        self._memory.execute(_TABLE)
        self._memory.execute(_INDEX)
        try:
            _require_journal(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
            if not self._has_table():
                self._write_all()
        except (OSError, sqlite3.OperationalError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            if "locked" in reason:
                reason = "another process has it"
            raise MaskError(
                f"What is applied is not kept: {self.path} cannot be used as a journal ({reason}); give another file."
            ) from None

    def rows(self, volume_uid: str) -> list[Row]:
        """A volume's history, in order, without what was left out."""
        found = f"SELECT {_COLUMNS} FROM steps WHERE volume_uid = ? ORDER BY id"
        rows = (_row(values) for values in self._memory.execute(found, (volume_uid,)))
        return [row for row in rows if row.state != State.LEFT_OUT]

    def leave_out(self, numbers: list[int]) -> None:
        """Rows that cannot be applied are not given again; they stay in the file."""
        self._change([("UPDATE steps SET state = ? WHERE id = ?", (State.LEFT_OUT, n)) for n in numbers])

    def of(self, volume_uid: str) -> VolumeJournal:
        """For a volume's segmentation to write to."""
        return VolumeJournal(self, volume_uid)

    def add(self, volume_uid: str, step: Step) -> None:
        """A segment was added, step.segment; it is no step of undo."""
        self._change([_insert(volume_uid, State.SEGMENT, step)])

    def apply(
        self, volume_uid: str, step: Step, grouped: bool = False, joins: bool = False, drops: bool = False
    ) -> None:
        """A mask was applied, or the list of segments changed; what had been undone cannot be redone any more.

        grouped: by a group; joins: to the newest step, which is the group's. drops: the oldest step can be undone no more.
        The step's own group is not read.
        """
        if grouped:
            step = replace(step, group=self._group(volume_uid, joins))
        done = _insert(volume_uid, State.DONE, step)
        undone = (f"DELETE FROM steps WHERE {_OF_VOLUME}", (volume_uid, State.UNDONE))
        self._change([undone, *(self._fix(volume_uid) if drops else []), done])

    def _group(self, volume_uid: str, joins: bool) -> int:
        """The number of the newest step, or one for a new step."""
        newest = f"SELECT step FROM steps WHERE {_OF_VOLUME} ORDER BY id DESC LIMIT 1"
        # The id that its first row gets, once what was undone is deleted.
        new = f"SELECT ifnull(max(id), 0) + 1 FROM steps WHERE NOT ({_OF_VOLUME})"
        query, state = (newest, State.DONE) if joins else (new, State.UNDONE)
        return self._memory.execute(query, (volume_uid, state)).fetchone()[0]

    def _fix(self, volume_uid: str) -> list[_Statement]:
        """The oldest step stays for good; and what stood in its place is seen nowhere any more."""
        of_done, of_fixed = (volume_uid, State.DONE), (volume_uid, State.FIXED)
        oldest = f"SELECT min({_STEP}) FROM steps WHERE {_OF_VOLUME}"
        old = self._memory.execute(
            f"SELECT id, plane, data FROM steps WHERE {_OF_VOLUME} AND {_STEP} = ({oldest}) ORDER BY id",
            (*of_done, *of_done),
        ).fetchall()
        if not old:
            return []
        first, last = old[0][0], old[-1][0]
        statements: list[_Statement] = [
            (
                f"UPDATE steps SET state = ? WHERE {_OF_VOLUME} AND id <= ?",
                (State.FIXED, *of_done, last),
            ),
            (
                "DELETE FROM steps WHERE id IN (SELECT old.id FROM steps new JOIN steps old USING "
                "(volume_uid, state, segment, plane, slice) WHERE volume_uid = ? AND state = ? AND new.id >= ? AND old.id < new.id)",
                (*of_fixed, first),
            ),
        ]
        lists = [(number, data) for number, plane, data in old if plane == LIST_PLANE]
        for number, data in lists[-1:]:
            # Segments that the list lacks are removed for good.
            keys = tuple(decode_list(data))
            statements.append(
                (
                    f"DELETE FROM steps WHERE volume_uid = ? AND state IN (?, ?) AND id < ? AND segment NOT IN (?{', ?' * len(keys)})",
                    (volume_uid, State.FIXED, State.SEGMENT, number, "", *keys),
                )
            )
        return statements

    def undo(self, volume_uid: str) -> None:
        """The last step that was done was undone."""
        self._turn(volume_uid, "max", State.DONE, State.UNDONE)

    def redo(self, volume_uid: str) -> None:
        """The first step that was undone was done again."""
        self._turn(volume_uid, "min", State.UNDONE, State.DONE)

    def retry(self) -> None:
        """Write what could not be written; nothing happens while all is."""
        if self.error:
            self._write_all()

    def fold(self) -> None:
        """Bring what SQLite has written beside the file into it, so that the one file is all there is."""
        with contextlib.suppress(sqlite3.Error):
            self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self._file.close()

    def _turn(self, volume_uid: str, which: str, old: State, new: State) -> None:
        """Change the state of the first or last step of a state."""
        one = f"SELECT {which}({_STEP}) FROM steps WHERE {_OF_VOLUME}"
        values = (new, volume_uid, old, volume_uid, old)
        self._change([(f"UPDATE steps SET state = ? WHERE {_OF_VOLUME} AND {_STEP} = ({one})", values)])

    def _change(self, statements: list[_Statement]) -> None:
        _transaction(self._memory, statements)
        if not self.error:
            with self._error_told():
                _transaction(self._file, statements)

    def _write_all(self) -> None:
        """Make the file what the memory is."""
        with self._error_told():
            self._file.execute("PRAGMA journal_mode = WAL")
            new = [] if self._has_table() else [(_TABLE, ()), (_INDEX, ())]
            owner = (f"PRAGMA application_id = {_APPLICATION_ID}", ())
            rows = ((_INSERT, values) for values in self._memory.execute(_ALL))
            _transaction(self._file, [owner, *new, ("DELETE FROM steps", ()), *rows])
            self.error = ""

    @contextlib.contextmanager
    def _error_told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self.error = f"What is applied is not kept: the journal {self.path} cannot be written ({error}); make room."

    def _open(self) -> sqlite3.Connection:
        """The file, with its rows read; a damaged one is put aside, and another begun with what can be read of it."""
        file = _connect(self.path)
        try:
            rows = _read(file)
            _transaction(self._memory, [(_INSERT, values) for values in rows])
            return file
        except sqlite3.OperationalError:
            file.close()
            raise
        except sqlite3.DatabaseError as error:
            reason, rows = str(error), _salvage(file)
            file.close()
            if _owner(self.path) != _APPLICATION_ID:
                raise OSError(0, "it is no journal") from None
        copy = _put_aside(self.path)
        _transaction(self._memory, [(_INSERT, values) for values in rows])
        self.damage = f"The journal {self.path} was damaged ({reason}): {len(rows)} steps of it could be read; it is kept as {copy}."
        file = _connect(self.path)
        _read(file)
        return file

    def _has_table(self) -> bool:
        return bool(self._file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


@dataclass(frozen=True)
class VolumeJournal:
    """A journal's part for one volume: what its segmentation writes to."""

    journal: Journal
    volume_uid: str

    def add(self, step: Step) -> None:
        self.journal.add(self.volume_uid, step)

    def apply(self, step: Step, grouped: bool = False, joins: bool = False, drops: bool = False) -> None:
        self.journal.apply(self.volume_uid, step, grouped, joins, drops)

    def undo(self) -> None:
        self.journal.undo(self.volume_uid)

    def redo(self) -> None:
        self.journal.redo(self.volume_uid)


def _insert(volume_uid: str, state: State, step: Step) -> _Statement:
    place = (step.segment, step.plane, step.index, *step.shape, step.data)
    return _INSERT, (None, volume_uid, state, *place, step.crc(volume_uid), step.group)


def _connect(path: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    # Text that is none is damage of its row, which its checksum tells, and not of the file.
    database.text_factory = lambda text: text.decode(errors="replace")
    return database


def _transaction(database: sqlite3.Connection, statements: Iterable[_Statement]) -> None:
    """All of the statements or none."""
    database.execute("BEGIN IMMEDIATE")
    try:
        for statement, values in statements:
            database.execute(statement, values)
        database.execute("COMMIT")
    except BaseException:
        # A full disk may have ended the transaction already.
        if database.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
        raise


def _require_journal(path: Path) -> None:
    """Raises OSError for what is no journal, before SQLite touches it. An empty file holds nothing to lose."""
    if not path.exists():
        return
    if not path.is_file():
        raise OSError(0, "it is no file")
    # A journal that was killed as it began has its owner in the log beside it only.
    if path.stat().st_size and _owner(path) not in (0, _APPLICATION_ID):
        raise OSError(0, "it is no journal")


def _owner(path: Path) -> int | None:
    """The application that an SQLite database says it is of, 0 for none; None for what is no such database."""
    with path.open("rb") as file:
        head = file.read(100)
    return int.from_bytes(head[68:72], "big") if head.startswith(_MAGIC) else None


def _read(file: sqlite3.Connection) -> list[tuple]:
    """All rows. Raises sqlite3.OperationalError for what is no journal, DatabaseError for one that is damaged."""
    # With the lock held for good no second process gets in, and there is no shared memory that a full disk would spoil.
    file.execute("PRAGMA locking_mode = EXCLUSIVE")
    file.execute("PRAGMA synchronous = NORMAL")
    file.execute("PRAGMA journal_size_limit = 1000000")
    tables = [sql for (sql,) in file.execute("SELECT sql FROM sqlite_master ORDER BY type DESC")]
    if not tables:
        return []
    _transaction(file, ())
    (owner,) = file.execute("PRAGMA application_id").fetchone()
    if owner != _APPLICATION_ID or tables not in ([_TABLE, _INDEX], [_FORMER_TABLE, _INDEX]):
        raise sqlite3.OperationalError("it is the database of another program or version")
    (verdict,) = file.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict.splitlines()[-1])
    if tables == [_FORMER_TABLE, _INDEX]:
        file.execute(f"ALTER TABLE steps ADD COLUMN {_GROUP}")
    return file.execute(_ALL).fetchall()


def _salvage(file: sqlite3.Connection) -> list[tuple]:
    """The whole rows of a damaged file, as far as SQLite gets."""
    rows = {}
    with contextlib.suppress(sqlite3.Error):
        for found in file.execute("SELECT * FROM steps"):
            # A former release's have no group.
            values = (*found, 0)[:11]
            if _row(values).step:
                rows[values[0]] = values
    return [rows[number] for number in sorted(rows)]


def _row(values: tuple) -> Row:
    number, volume_uid, state, segment, plane, index, height, width, data, crc, group = values
    whole = (
        all(isinstance(value, int) for value in (number, state, plane, index, height, width, crc, group))
        and all(isinstance(value, str) for value in (volume_uid, segment))
        and isinstance(data, bytes)
        and state in tuple(State)
    )
    step = Step(segment, plane, index, (height, width), data, group) if whole else None
    if step is None or step.crc(volume_uid) != crc:
        return Row(number, State(state) if state in tuple(State) else State.DONE, None)
    return Row(number, State(state), step)


def _put_aside(path: Path) -> Path:
    """Rename a damaged journal, with what SQLite has beside it, to a name that nothing has."""
    number = 1
    while (copy := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for suffix in "-wal", "-journal", "":
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{copy}{suffix}")
    return copy
