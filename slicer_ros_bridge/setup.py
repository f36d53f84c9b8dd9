# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
from setuptools import find_packages, setup

setup(
    name="slicer_ros_bridge",
    version="0.1.0",
    # The extension's library, for the viewer; Slicer itself finds it beside its module.
    packages=[*find_packages(include=["slicer_ros_bridge*"]), "SlicerIPPLib"],
    package_dir={"SlicerIPPLib": "SlicerIPP/SlicerIPP/SlicerIPPLib"},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/slicer_ros_bridge"]),
        ("share/slicer_ros_bridge", ["package.xml"]),
    ],
    install_requires=["setuptools", "aiohttp", "pybase64"],
    zip_safe=True,
    maintainer="samm_ros maintainers",
    maintainer_email="maintainers@samm-ros.dev",
    description="Relays between the samm_ros graph and 3D Slicer over ZeroMQ.",
    license="Apache-2.0",
    entry_points={"console_scripts": ["slicer_bridge = samm_ros.start:slicer_bridge"]},
)
