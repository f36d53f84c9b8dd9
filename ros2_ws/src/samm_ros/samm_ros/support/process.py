# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Runs nodes in a process until it is told to stop, or one of its threads dies.

rclpy's own signal handlers shut the context down under the nodes: what then still waits in C++ ends the process by an
abort and leaves its shared memory behind. Here a signal is only noted. The executors return, the nodes are destroyed
one after the other, then the context is shut down.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import (
    ConditionReachedException,
    Executor,
    ExternalShutdownException,
    ShutdownException,
    TimeoutException,
)
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Task
from rclpy.timer import Timer

from samm_core.allocator import keep_freed_memory
from samm_core.private import keep_files_private

from .. import start
from . import diagnostics, direct, parameters, security, shared_memory, watch
from .lifecycle import LifecycleNode

# Enough for a service that waits, an action and its cancellation, beside the timers.
_BACKGROUND_THREADS = 4
# What a library computes cannot be interrupted: it is waited for so long.
_JOIN_S = 1.0

_logger = rclpy.logging.get_logger("process")


class _End:
    """Whether this process is to end, and why: no sentence is a stop that was asked for."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.failure = ""
        self._executors: list[Executor] = []

    def add(self, executor: Executor) -> None:
        self._executors.append(executor)

    def ask(self, failure: str = "") -> None:
        if failure and not self.asked.is_set():
            self.failure = failure
        self.asked.set()
        for executor in self._executors:
            with contextlib.suppress(Exception):
                executor.wake()


_end = _End()


@contextlib.contextmanager
def ros_with_model(args: list[str] | None = None) -> Iterator[None]:
    """As ros, for a process that runs a model."""
    keep_freed_memory()
    with ros(args):
        yield


@contextlib.contextmanager
def ros(args: list[str] | None = None) -> Iterator[None]:
    """rclpy from start to shutdown, on the main thread; the process ends with it.

    SIGINT and SIGTERM end spin(), and the process with status 0; a thread that dies of an exception, with status 1.
    """
    with _noted_signals():
        threading.excepthook = _on_dead_thread
        # Journals, logs, saved embeddings and segmentations: patients' data.
        keep_files_private()
        security.require_what_was_asked_for()
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        try:
            yield
        except ExternalShutdownException:
            pass
        finally:
            watch.close_all()
            rclpy.try_shutdown()
    _leave()


def spin(*nodes: Node) -> None:
    """Serve the nodes' callbacks on this thread: the shortest way from a message to its callback that rclpy has."""
    shared_memory.keep_private()
    executor = _Executor()
    for node in nodes:
        executor.add_node(node)
    try:
        executor.spin()
    finally:
        for node in nodes:
            executor.remove_node(node)
            _destroy(node)
        executor.shutdown()


@contextlib.contextmanager
def spinning_aside(*nodes: Node) -> Iterator[None]:
    """Serve nodes whose callbacks may take long on threads of their own, so that they delay no other node."""
    shared_memory.keep_private()
    executor = _Executor(_BACKGROUND_THREADS)
    for node in nodes:
        executor.add_node(node)
    name = f"executor of {nodes[0].get_name()}"
    thread = threading.Thread(target=executor.spin, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        _end.ask()
        thread.join(_JOIN_S)
        for node in nodes:
            executor.remove_node(node)
            _destroy(node)
        executor.shutdown()


def steady_timer(node: Node, period_s: float, callback: Callable[[], None]) -> Timer:
    """A timer that runs without ROS time too: with `use_sim_time`, that stands until somebody publishes /clock."""
    return node.create_timer(period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))


def declare_autostart(node: LifecycleNode) -> bool:
    return parameters.declare(
        node, "autostart", True, "Configure and activate at start; otherwise wait for lifecycle transitions."
    )


def autostart(*nodes: LifecycleNode) -> None:
    """Bring up the nodes whose `autostart` is set, in this order, on a thread.

    A model takes its time, and the process can be told to end meanwhile. A node that fails stays and can be configured again.
    """
    starting = [node for node in nodes if node.get_parameter("autostart").value]

    def bring_up() -> None:
        for node in starting:
            if (
                not _end.asked.is_set()
                and node.trigger_configure() == TransitionCallbackReturn.SUCCESS
                and not _end.asked.is_set()
            ):
                node.trigger_activate()

    threading.Thread(target=bring_up, name="autostart", daemon=True).start()


class _Executor(Executor):
    """Serves callbacks until the process is to end: on the thread that spins, or on `threads` of a pool.

    A callback's exception is logged, and the next one served: what one message does must not end the others' service.
    """

    def __init__(self, threads: int = 0) -> None:
        super().__init__()
        self._pool = ThreadPoolExecutor(threads, "callbacks") if threads else None
        _end.add(self)

    def spin(self) -> None:
        while not _end.asked.is_set() and self.context.ok():
            self.spin_once()

    def spin_once(self, timeout_sec: float | None = None) -> None:
        try:
            callback, _, node = self.wait_for_ready_callbacks(timeout_sec, None, _end.asked.is_set)
        except (TimeoutException, ConditionReachedException, ShutdownException):
            return
        except rclpy_implementation.InvalidHandle:
            return  # destroyed while it was waited for
        if self._pool:
            self._pool.submit(self._run, callback, node)
        else:
            self._run(callback, node)

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)
        return super().shutdown(timeout_sec)

    @staticmethod
    def _run(callback: Task, node: Node | None) -> None:
        callback()
        error = callback.exception() if callback.done() else None
        if error is None or _end.asked.is_set():
            return
        where = traceback.extract_tb(error.__traceback__)[-1:]
        place = f" ({where[0].filename.rpartition('/')[2]}:{where[0].lineno})" if where else ""
        logger = node.get_logger() if node else _logger
        logger.error(f"A callback failed: {type(error).__name__}: {error}{place}")


def _destroy(node: Node) -> None:
    """Destroy a node and all that holds on to it, so that DDS lets go of its shared memory."""
    diagnostics.end(node)
    direct.close_all(node)
    if isinstance(node, LifecycleNode):
        node.deactivate()
    node.destroy_node()


def _on_dead_thread(died: threading.ExceptHookArgs) -> None:
    """A thread that died leaves a process that looks alive and is deaf: it is better started again."""
    if issubclass(died.exc_type, SystemExit) or _end.asked.is_set():
        return
    name = died.thread.name if died.thread else "unknown"
    why = f"The thread {name!r} died, so the process ends: {died.exc_type.__name__}: {died.exc_value}"
    traceback.print_exception(died.exc_type, died.exc_value, died.exc_traceback)
    _logger.fatal(why)
    _end.ask(why)


@contextlib.contextmanager
def _noted_signals() -> Iterator[None]:
    """SIGINT and SIGTERM ask for the end, whatever the main thread is waiting for in C++.

    Python runs its handlers between two instructions of the main thread alone; the byte that it writes to the wake-up
    descriptor comes at once.
    """
    read_from, write_to = socket.socketpair()
    write_to.setblocking(False)

    def listen() -> None:
        while read_from.recv(1):
            _end.ask()

    former = {number: signal.signal(number, lambda *_: None) for number in start.SIGNALS}
    former_descriptor = signal.set_wakeup_fd(write_to.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former_descriptor)
        # Until the process has ended, another signal asks for what is being done already.
        for number in former:
            signal.signal(number, signal.SIG_IGN)
        write_to.close()
        listener.join(_JOIN_S)
        read_from.close()


def _leave() -> None:
    """End the process, with status 1 after a failure.

    Threads that a library keeps busy (a model that loads, a slice that is encoded) are left behind: Python would wait
    for the one kind, and tear the other out of the middle of C++, which aborts.
    """
    status = 1 if _end.failure else 0
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if others:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if status:
        sys.exit(status)
