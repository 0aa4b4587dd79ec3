"""Programs that run without PyTorch, as on a machine with an exported file."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# All that a machine with an exported file needs.
RUNTIME_LIBRARIES = ("onnxruntime", "openvino", "PIL", "cv2", "numpy")
NO_TORCH = """
import importlib.util
for name in ("torch", "torchvision", "detectron2", "pycocotools", "omegaconf"):
    assert importlib.util.find_spec(name) is None, name
"""


def run_without_torch(program, folder):
    """Lines that a program prints in an environment with the libraries of the runtime only."""
    folder.mkdir()
    for name in RUNTIME_LIBRARIES:
        (package,) = importlib.util.find_spec(name).submodule_search_locations
        (folder / name).symlink_to(package)
    for libraries in Path(package).parent.glob("*.libs"):
        (folder / libraries.name).symlink_to(libraries)
    # -S: without the packages of this environment.
    result = subprocess.run(
        [sys.executable, "-S", "-c", NO_TORCH + program],
        env={"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()
