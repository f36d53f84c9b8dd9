# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The node graph: `ros2 launch samm_ros samm.launch.py name:=value …`, or without ROS `./samm up name:=value …`.

Its arguments and processes are tables in samm_ros/supervision/processes.py.
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from samm_ros.supervision.processes import (
    ARGUMENTS,
    RESPAWN_DELAY_S,
    NodeProcess,
    Values,
    config_file,
    enclave,
    environment,
    processes,
    read_arguments,
    remappings,
)


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(a.name, default_value=a.default_text, description=a.description)
        for a in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_start)])


def _start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    values = read_arguments({a.name: context.launch_configurations[a.name] for a in ARGUMENTS})
    variables = environment(bool(values["network"]), str(values["security"]))
    return [
        *(SetEnvironmentVariable(name, value) for name, value in variables.items()),
        *(_node(process, values) for process in processes(values)),
    ]


def _node(process: NodeProcess, values: Values) -> Node:
    parameters = {
        # With its type: launch_ros would read the text "1" as a number.
        name: ParameterValue(value, value_type=type(value))
        for name, value in process.parameters(values).items()
    }
    # It has no name: that would rename every node of a process that has several.
    return Node(
        package=process.package,
        executable=process.executable,
        namespace=values["namespace"],
        remappings=list(remappings(values).items()),
        parameters=[str(config_file(process.parameter_file)), parameters],
        ros_arguments=enclave(process, values),
        respawn=values["respawn"],
        respawn_delay=RESPAWN_DELAY_S,
    )
