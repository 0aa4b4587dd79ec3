"""Metadata and dependencies of mvit_det."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def readme() -> str:
    """The README, which is the long description; empty in a checkout that lacks it."""
    path = ROOT / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def config_packages() -> list[str]:
    """The folders of configs, as packages; they hold no `__init__.py`, as they are not imported."""
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py")}
    return ["mvit_det.configs"] + sorted(
        ".".join(("mvit_det", *folder.parts)) for folder in folders if folder.parts != ("configs",)
    )


setup(
    name="mvit_det",
    version="0.1.0",
    description="MViTv2 backbones for Mask and Cascade R-CNN in Detectron2",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["mvit_det", "mvit_det.*"]) + config_packages(),
    # The configs of a checkout become a part of the package, where `mvit_det.model_zoo` finds them.
    package_dir={"mvit_det.configs": "configs"},
    python_requires=">=3.10",
    # detectron2 is needed too, but cannot be named here: it is not on the package index.
    # tools/install_detectron2.py installs it, and with it omegaconf, iopath, tabulate and termcolor
    # in the versions it asks for.
    install_requires=[
        "faster-coco-eval>=1.6",
        "fvcore>=0.1.5,<0.1.6",
        "matplotlib",
        "numpy",
        # The build without windows, which needs no system libraries (libGL, libxcb).
        "opencv-python-headless",
        "pillow",
        "pycocotools>=2.0.2",
        "safetensors>=0.4",
        # Detectron2 cuts polygons with it where images are cropped, and does not ask for it.
        "shapely>=2.0",
        "tensorboard",
        "torch>=2.7",
        "torchvision>=0.22",
        "tqdm",
    ],
    extras_require={
        "lvis": ["lvis"],  # evaluation on LVIS
        "dev": [
            "mypy==2.4.1",
            "psutil==7.2.2",  # memory measurements
            "pytest==9.2.0",
            "pytest-xdist==3.8.0",  # two tests at a time
            "ruff==0.17.5",
            "timm==1.0.31",  # a second reference for the model's numbers, in tests only
        ],
    },
)
