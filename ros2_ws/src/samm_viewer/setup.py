# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
from setuptools import find_packages, setup

setup(
    name="samm_viewer",
    version="0.1.0",
    packages=find_packages(),
    package_data={"samm_viewer.session": ["static/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/samm_viewer"]),
        ("share/samm_viewer", ["package.xml"]),
    ],
    python_requires=">=3.10",
    install_requires=["aiohttp", "samm_core", "slicer_ros_bridge", "trame-slicer"],
    zip_safe=False,
    maintainer="samm_ros maintainers",
    maintainer_email="maintainers@samm-ros.dev",
    description="A page that segments volumes with the samm_ros graph, in any browser.",
    license="Apache-2.0",
)
