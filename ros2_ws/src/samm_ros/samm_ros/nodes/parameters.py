# SPDX-License-Identifier: Apache-2.0
"""Declares a node's parameters with their descriptions and ranges."""

from __future__ import annotations

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node


def declare(node: Node, name: str, default: str | bool, description: str) -> str | bool:
    """The value of a read-only text or flag."""
    descriptor = ParameterDescriptor(description=description, read_only=True)
    return node.declare_parameter(name, default, descriptor).value


def declare_number(
    node: Node, name: str, default: float, description: str, between: tuple[float, float]
) -> float:
    """The value of a read-only number within a range, which ROS enforces."""
    limits = FloatingPointRange(from_value=between[0], to_value=between[1])
    descriptor = ParameterDescriptor(description=description, read_only=True, floating_point_range=[limits])
    return node.declare_parameter(name, default, descriptor).value


def declare_integer(node: Node, name: str, default: int, description: str, between: tuple[int, int]) -> int:
    """The value of a read-only whole number within a range, which ROS enforces."""
    limits = IntegerRange(from_value=between[0], to_value=between[1], step=1)
    descriptor = ParameterDescriptor(description=description, read_only=True, integer_range=[limits])
    return node.declare_parameter(name, default, descriptor).value
