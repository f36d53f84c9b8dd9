# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""rosbag2 bags: written as MCAP so that what was flushed survives a kill, and read back however far they go.

`ros2 bag info` and `ros2 bag play` take what is written here, and Foxglove does; bags of `ros2 bag record` are read too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer
from mcap_ros2.decoder import DecoderFactory

from ..errors import BagError

_METADATA = "metadata.yaml"
# Of one record: more is damage, not a message.
_RECORD_LIMIT = 1 << 28


@dataclass(frozen=True)
class Topic:
    """name: fully qualified.

    type: e.g. samm_msgs/msg/TaskEvent. definition: the .msg text with all that it uses, as rosbag2 embeds it.
    qos: rosbag2's YAML list of offered profiles.
    """

    name: str
    type: str
    definition: str
    qos: str


@dataclass(frozen=True, eq=False)
class Recorded:
    """One message of a bag.

    message: has the fields of its type as attributes. data: its CDR. log_ns: when it was received.

    definition: the .msg text that the bag has for it, which `message` was read by; empty where the bag has none.
    """

    topic: str
    type: str
    log_ns: int
    message: Any
    data: bytes
    definition: str


class BagWriter:
    """Writes a new bag; a context manager. Thread-safe but for add(), discard() and close().

    flush() often: what is flushed is readable whatever happens to the process. sync() now and then: what is synced is
    readable whatever happens to the computer, but it may take seconds.
    """

    def __init__(self, folder: Path) -> None:
        """Raises BagError when the folder is there already or cannot be made."""
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise BagError(
                f"{folder} is there already; a recording is not written over. Give a new name."
            ) from None
        except OSError as error:
            raise BagError(f"{folder} cannot be made ({error.strerror}); give another place.") from None
        self.folder = folder
        self._name = f"{folder.name}_0.mcap"
        self._topics: dict[str, tuple[Topic, int]] = {}
        self._schemas: dict[str, int] = {}
        self._counts: Counter[str] = Counter()
        self._first_ns = self._last_ns = 0
        self._failed: BagError | None = None
        self._one_at_a_time = threading.Lock()
        try:
            with self._writing():
                self._stream = (folder / self._name).open("wb")
                self._writer = Writer(self._stream, compression=CompressionType.NONE)
                self._writer.start(profile="ros2", library="samm_ros")
                self._write_metadata()
        except BagError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def counts(self) -> dict[str, int]:
        """Messages by topic."""
        return dict(self._counts)

    def add(self, topic: Topic) -> None:
        if topic.name in self._topics:
            return
        if topic.type not in self._schemas:
            data = topic.definition.encode()
            self._schemas[topic.type] = self._writer.register_schema(topic.type, "ros2msg", data)
        channel = self._writer.register_channel(
            topic.name, "cdr", self._schemas[topic.type], {"offered_qos_profiles": topic.qos}
        )
        self._topics[topic.name] = topic, channel

    def write(self, name: str, data: bytes, log_ns: int) -> None:
        """data: the message as CDR.

        log_ns: ROS time of its arrival. Raises BagError, as flush and close do, when the disk takes no more.
        """
        _, channel = self._topics[name]
        with self._one_at_a_time:
            with self._writing():
                self._writer.add_message(channel, log_ns, data, log_ns, self._counts[name])
            self._counts[name] += 1
            self._first_ns = min(self._first_ns or log_ns, log_ns)
            self._last_ns = max(self._last_ns, log_ns)

    def flush(self) -> None:
        with self._one_at_a_time, self._writing():
            self._writer.flush()
            self._stream.flush()

    def sync(self) -> None:
        with self._writing():
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        if self._stream.closed:
            return
        if self._failed:
            # What is in it stays, as after a kill.
            with contextlib.suppress(OSError):
                self._stream.close()
            return
        with self._writing():
            self._writer.finish()
            self._stream.close()
            self._write_metadata()

    def discard(self) -> None:
        """Leave nothing: the recording is of something that failed."""
        self._failed = self._failed or BagError(f"The recording in {self.folder} was given up.")
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        if self._failed:
            raise self._failed
        try:
            yield
        except OSError as error:
            self._failed = BagError(
                f"The recording in {self.folder} ended, as it cannot be written any more ({error.strerror}); "
                "make room, or give another place."
            )
            raise self._failed from None

    def _write_metadata(self) -> None:
        total = sum(self._counts.values())
        duration = {"nanoseconds": max(0, self._last_ns - self._first_ns)}
        start = {"nanoseconds_since_epoch": self._first_ns}
        topics = [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": yaml.safe_load(topic.qos) or [],
                    "type_description_hash": "",
                },
                "message_count": self._counts[topic.name],
            }
            for topic, _ in self._topics.values()
        ]
        # Version 9 is Jazzy's: https://github.com/ros2/rosbag2/blob/jazzy/rosbag2_storage/include/rosbag2_storage/bag_metadata.hpp
        information = {
            "version": 9,
            "storage_identifier": "mcap",
            "duration": duration,
            "starting_time": start,
            "message_count": total,
            "topics_with_message_count": topics,
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [self._name],
            "files": [
                {"path": self._name, "starting_time": start, "duration": duration, "message_count": total}
            ],
            "custom_data": {},
            "ros_distro": "jazzy",
        }
        text = yaml.safe_dump({"rosbag2_bagfile_information": information}, sort_keys=False)
        draft = self.folder / f".{_METADATA}"
        draft.write_text(text)
        os.replace(draft, self.folder / _METADATA)


class BagReader:
    """Reads a bag: a rosbag2 folder (MCAP, or sqlite3 through rosbags), or one .mcap file.

    cut: set once messages() has come to the end of a file that was not finished.
    """

    def __init__(self, path: Path) -> None:
        """Raises BagError when there is no bag."""
        self.path = path
        self.cut = False
        self._files = (
            [path] if path.suffix == ".mcap" else sorted(path.glob("*.mcap")) if path.is_dir() else []
        )
        self._is_sqlite = path.is_dir() and not self._files and any(path.glob("*.db3"))
        if not path.exists() or not (self._files or self._is_sqlite):
            raise BagError(f"There is no bag at {path}; give the folder of a recording, or an .mcap file.")

    def messages(self, *names: str) -> Iterator[Recorded]:
        """In the order in which they were recorded; of topics whose last part is one of `names` (none: of all).

        A message that does not decode is left out; what a cut or damaged file still holds is given.
        """
        if self._is_sqlite:
            yield from self._sqlite(names)
        for file in self._files:
            yield from self._mcap(file, names)

    def _mcap(self, file: Path, names: tuple[str, ...]) -> Iterator[Recorded]:
        schemas: dict[int, Schema] = {}
        channels: dict[int, Channel] = {}
        decoders = DecoderFactory()
        finished = False
        with file.open("rb") as stream:
            records = StreamReader(stream, record_size_limit=_RECORD_LIMIT).records
            while True:
                try:
                    record = next(records)
                except StopIteration:
                    finished = True
                    break
                except Exception:  # whatever mcap meets in a cut or damaged file: there is no more to be had
                    break
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, Message) and record.channel_id in channels:
                    channel = channels[record.channel_id]
                    if names and channel.topic.rpartition("/")[2] not in names:
                        continue
                    schema = schemas.get(channel.schema_id)
                    decoded = _decode(decoders, channel, schema, record)
                    if decoded is not None:
                        text = schema.data.decode(errors="replace")
                        yield Recorded(
                            channel.topic, schema.name, record.log_time, decoded, record.data, text
                        )
        self.cut = self.cut or not finished

    def _sqlite(self, names: tuple[str, ...]) -> Iterator[Recorded]:
        from rosbags.highlevel import AnyReader, AnyReaderError

        try:
            with AnyReader([self.path]) as reader:
                wanted = [c for c in reader.connections if not names or c.topic.rpartition("/")[2] in names]
                for connection, log_ns, data in reader.messages(wanted) if wanted else ():
                    message = reader.deserialize(data, connection.msgtype)
                    kind, text = connection.msgtype, connection.msgdef.data
                    yield Recorded(connection.topic, kind, log_ns, message, bytes(data), text)
        except (AnyReaderError, OSError, ValueError) as error:
            self.cut = True
            if isinstance(error, AnyReaderError):
                raise BagError(f"{self.path} cannot be read ({error}); was its recorder ended?") from None


def _decode(decoders: DecoderFactory, channel: Channel, schema: Schema | None, record: Message) -> Any:
    try:
        decode = decoders.decoder_for(channel.message_encoding, schema)
        return decode(record.data) if decode else None
    except Exception:  # whatever a damaged message makes of a decoder
        return None
