# SPDX-License-Identifier: Apache-2.0
"""Runs nodes in a process until it is told to stop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import rclpy
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node

from ..memory import keep_freed_memory
from . import parameters

# Enough for a service that waits, an action and its cancellation, beside the timers.
_BACKGROUND_THREADS = 4


@contextlib.contextmanager
def ros_with_model(args: list[str] | None = None) -> Iterator[None]:
    """As ros, for a process that runs a model."""
    keep_freed_memory()
    with ros(args):
        yield


@contextlib.contextmanager
def ros(args: list[str] | None = None) -> Iterator[None]:
    """rclpy from start to shutdown; SIGINT and SIGTERM end the block quietly."""
    rclpy.init(args=args)
    try:
        yield
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


def spin(*nodes: Node) -> None:
    """Serve the nodes' callbacks on this thread: the shortest way from a message to its callback that rclpy has."""
    executor = SingleThreadedExecutor()
    for node in nodes:
        executor.add_node(node)
    try:
        executor.spin()
    finally:
        for node in nodes:
            executor.remove_node(node)
            node.destroy_node()


@contextlib.contextmanager
def spinning_aside(node: Node) -> Iterator[None]:
    """Serve a node whose callbacks may take long on threads of their own, so that they delay no other node."""
    executor = MultiThreadedExecutor(_BACKGROUND_THREADS)
    executor.add_node(node)
    thread = threading.Thread(target=_spin_quietly, args=(executor.spin,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown(timeout_sec=1.0)
        thread.join(timeout=1.0)
        node.destroy_node()


def declare_autostart(node: LifecycleNode) -> bool:
    return parameters.declare(
        node, "autostart", True, "Configure and activate at start; otherwise wait for lifecycle transitions."
    )


def autostart(*nodes: LifecycleNode) -> None:
    """Bring up the nodes whose `autostart` is set. One that fails stays and can be configured again."""
    for node in nodes:
        if (
            node.get_parameter("autostart").value
            and node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        ):
            node.trigger_activate()


def _spin_quietly(spin_executor: Callable[[], None]) -> None:
    with contextlib.suppress(ExternalShutdownException):
        spin_executor()
