# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
from glob import glob

from setuptools import find_packages, setup

TASKS = ("snd_inf", "rcv_inf", "cpl_inf", "rcv_msk", "apl_msk")
NODES = (*TASKS, "embedding", "world", "samm_server", "samm_client")

setup(
    name="samm_ros",
    version="0.1.0",
    packages=find_packages(),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/samm_ros"]),
        ("share/samm_ros", ["package.xml"]),
        ("share/samm_ros/launch", glob("launch/*.py")),
        ("share/samm_ros/launch/config", glob("launch/config/*")),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="samm_ros maintainers",
    maintainer_email="maintainers@samm-ros.dev",
    description="Real-time promptable segmentation of medical volumes: the SAMM system as a ROS 2 node graph.",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"{node} = samm_ros.start:{node}" for node in NODES]},
)
