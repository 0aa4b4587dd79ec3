"""Packages of mvit_det; its metadata and dependencies are in pyproject.toml."""

from setuptools import find_namespace_packages, find_packages, setup

# The configs of a checkout become mvit_det.configs, where `mvit_det.model_zoo` finds them.
configs = find_namespace_packages("configs", exclude=["*__pycache__*"])

setup(
    packages=[
        *find_packages(include=["mvit_det*"]),
        "mvit_det.configs",
        *(f"mvit_det.configs.{name}" for name in configs),
    ],
    package_dir={"mvit_det.configs": "configs"},
)
