# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Declares a node's parameters with their descriptions and ranges.

A parameter is read-only, unless `on_set` is given: then it can be set while the node runs, and `on_set` is called with
each new value, on the executor's thread, after ROS has checked its type and range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from samm_core.sources.roots import Roots

Value = TypeVar("Value", str, bool, int, float)
OnSet = Callable[[Any], None]


def declare(
    node: Node, name: str, default: str | bool, description: str, *, on_set: OnSet | None = None
) -> str | bool:
    """The value of a text or flag."""
    return _declare(node, name, default, ParameterDescriptor(description=description), on_set)


def declare_number(
    node: Node,
    name: str,
    default: float,
    description: str,
    between: tuple[float, float],
    *,
    on_set: OnSet | None = None,
) -> float:
    """The value of a number within a range, which ROS enforces; so no infinity, and what is no number neither."""
    limits = FloatingPointRange(from_value=between[0], to_value=between[1])
    descriptor = ParameterDescriptor(description=description, floating_point_range=[limits])
    return _declare(node, name, default, descriptor, on_set)


def declare_integer(
    node: Node,
    name: str,
    default: int,
    description: str,
    between: tuple[int, int],
    *,
    on_set: OnSet | None = None,
) -> int:
    """The value of a whole number within a range, which ROS enforces."""
    limits = IntegerRange(from_value=between[0], to_value=between[1], step=1)
    descriptor = ParameterDescriptor(description=description, integer_range=[limits])
    return _declare(node, name, default, descriptor, on_set)


def declare_roots(node: Node, *named: str) -> Roots:
    """Where the node may read and write what a message names. named: files that its other parameters name."""
    text = declare(
        node,
        "roots",
        "",
        "Folders in which files that a message names are read and written, with ':' between them; empty: the one it runs in.",
    )
    return Roots.of(text, named)


def _declare(
    node: Node, name: str, default: Value, descriptor: ParameterDescriptor, on_set: OnSet | None
) -> Value:
    descriptor.read_only = on_set is None
    value = node.declare_parameter(name, default, descriptor).value
    if on_set is not None:

        def was_set(parameters: list[Parameter]) -> None:
            for parameter in parameters:
                if parameter.name == name:
                    on_set(parameter.value)

        # Declaring is setting too: added only now, it tells of later values alone.
        node.add_post_set_parameters_callback(was_set)
    return value
