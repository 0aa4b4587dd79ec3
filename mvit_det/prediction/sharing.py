"""Trained models as folders to share: weights, config, class names and a model card.

    save_pretrained("output/config.yaml", "output/model_best.pth", "parts-detector")
    push_to_hub("parts-detector", "me/parts-detector")
    detector = from_pretrained("me/parts-detector")

A config is a program: it names the functions that build the model. Of a folder from elsewhere, only
functions of the model's own libraries are called, and the YAML file must be plain data.
"""

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from .. import __version__
from ..checkpoint import local_path
from ..checkpoint.files import atomic_path, save_safetensors
from ..config import find_config
from ..config.custom_dataset import PATHS
from ..config.image_folders import FOLDERS
from ..config.validation import locate_target
from ..data.folders import new_file
from ..data.urls import expand_home, is_url
from ..errors import CheckpointError, ConfigError, OutputError
from .classifier import Classifier
from .predictor import Predictor
from .video_classifier import VideoClassifier

CONFIG, WEIGHTS, CARD, IMAGE = "config.yaml", "model.safetensors", "README.md", "predictions.png"
# Modules with the functions that a config of another origin may name.
TRUSTED_MODULES = (
    *(f"mvit_det.{name}" for name in ("backbone", "data", "detection", "evaluation", "modeling")),
    "mvit_det.optimization",
    *(f"detectron2.{name}" for name in ("data", "evaluation", "layers", "modeling", "solver")),
    "fvcore.common.param_scheduler",
    "torch.nn",
    "torch.optim",
)
Model = Predictor | Classifier | VideoClassifier
# In the hub's words.
TASKS = {
    Predictor: "object-detection",
    Classifier: "image-classification",
    VideoClassifier: "video-classification",
}
_HUB = "the Hugging Face Hub needs huggingface_hub; install it with 'pip install \"mvit_det[hub]\"'"


def save_pretrained(
    config: str | Path | DictConfig,
    weights: str | Path | None,
    folder: str | Path,
    *,
    metrics: Mapping[str, float] | None = None,
    licence: str = "",
    trust_checkpoint: bool = False,
) -> Path:
    """Writes a trained detector, classifier or video classifier as a folder to share.

    Args:
        config, weights: as for `Predictor` and the classifiers.
        folder: for `config.yaml`, `model.safetensors` and `README.md`, the model card; an existing
            model there is replaced.
        metrics: for the model card, in percent; by default the last ones in the `metrics.json`
            beside the weights.
        licence: of the weights, for the model card, such as "apache-2.0".
        trust_checkpoint: lets the weights file run code while it is read.

    Returns:
        The folder.

    Raises:
        ConfigError, CheckpointError: as for `Predictor`; or the config builds the model from
            functions that `from_pretrained` would not call.
        OutputError: the folder cannot be written.
    """
    if not isinstance(config, DictConfig):
        config, published = find_config(config)
        weights = weights or published
    model = _load(config, weights, device="cpu", trust_checkpoint=trust_checkpoint)
    shared = _without_paths(config, model)
    text = yaml.safe_dump(_plain(OmegaConf.to_container(shared)), sort_keys=False)
    _check_config(text, "the config")
    source = local_path(weights) if weights else Path()
    metrics = dict(metrics) if metrics is not None else _last_metrics(source.parent)
    tensors = {key: value.contiguous().clone() for key, value in model.model.state_dict().items()}
    image = source.parent / "evaluation" / IMAGE
    if is_url(folder) or not str(folder).strip():
        raise OutputError(f"cannot write the model to '{folder}'; name a folder of this machine")
    folder = Path(expand_home(folder))
    if (folder / CARD).exists() and not (folder / WEIGHTS).exists():
        raise OutputError(
            f"'{folder / CARD}' belongs to something else than a model and would be replaced; name "
            "another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / WEIGHTS) as path:
            save_safetensors(tensors, path)
        card = _card(folder, model, metrics, licence, has_image=image.is_file())
        for name, content in ((CONFIG, text), (CARD, card)):
            with new_file(folder / name) as path:
                path.write_text(content, encoding="utf-8")
        if image.is_file():
            with new_file(folder / IMAGE) as path:
                shutil.copyfile(image, path)
    except OSError as error:
        raise OutputError(
            f"cannot write the model to '{folder}' ({error.strerror or error}); name another folder"
        ) from error
    return folder


def from_pretrained(name: str | Path, *, revision: str | None = None, **options: Any) -> Model:
    """Loads a model that `save_pretrained` wrote.

    Args:
        name: a folder, or a repository of the Hugging Face Hub, such as "me/parts-detector".
        revision: branch, tag or commit of the repository.
        options: of the model's class, such as `device` and `score_threshold`.

    Raises:
        CheckpointError: there is no such folder or repository, or it lacks a file.
        ConfigError: the config names functions of other libraries than the model's, or an option is
            invalid.
    """
    folder = Path(name) if Path(name).is_dir() else _download(str(name), revision)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise CheckpointError(
                f"'{name}' has no {file}; name a folder or repository that save_pretrained wrote"
            )
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read '{folder / CONFIG}' ({error})") from error
    _check_config(text, f"'{folder / CONFIG}'")
    config, _ = find_config(folder / CONFIG)
    return _load(config, folder / WEIGHTS, **options)


def push_to_hub(folder: str | Path, repository: str, *, private: bool = False) -> str:
    """Uploads a folder that `save_pretrained` wrote to the Hugging Face Hub; returns its URL.

    You are logged in by 'hf auth login', or by the variable `HF_TOKEN`.

    Raises:
        ConfigError: huggingface_hub is not installed.
        OutputError: the upload fails.
    """
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError as error:
        raise ConfigError(_HUB) from error
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload model")
    except Exception as error:  # of the hub's client and its HTTP library
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OutputError(f"cannot upload '{folder}' to '{repository}' ({reason})") from error
    return f"{api.endpoint}/{repository}"


def _download(name: str, revision: str | None) -> Path:
    """The folder of a repository in the cache of the hub's client."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ModuleNotFoundError as error:
        raise ConfigError(f"there is no folder '{name}', and {_HUB}") from error
    try:
        files = [CONFIG, WEIGHTS]
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"'{name}' is neither a folder nor a repository that can be downloaded ({reason})"
        ) from error


def _load(config: DictConfig, weights: str | Path | None, **options: Any) -> Model:
    if "classifier" not in config.get("model", {}):
        return Predictor(config, weights, **options)
    mapper = locate_target(OmegaConf.select(config, "dataloader.test.mapper._target_"))
    if isinstance(mapper, type) and issubclass(mapper, VideoClassifier.mapper_class):
        return VideoClassifier(config, weights, **options)
    return Classifier(config, weights, **options)


def _without_paths(config: DictConfig, model: Model) -> DictConfig:
    """A copy without the paths of this machine, and with the names of the classes."""
    shared = copy.deepcopy(config)
    data = {**shared.get("data", {}), **dict.fromkeys((*PATHS, *FOLDERS), "")}
    data["class_names"] = list(model.class_names)
    if isinstance(model, Predictor):
        data["category_ids"] = list(model.category_ids)
    shared.data = data
    shared.train.init_checkpoint = ""
    shared.train.output_dir = "./output"
    return shared


def _plain(value: Any) -> Any:
    """Functions as their names, and tuples as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return value


def _check_config(text: str, name: str) -> None:
    """Raises an error where reading a config, or building from it, could run other code.

    Raises:
        ConfigError: it is not plain YAML, or names a function outside of `TRUSTED_MODULES`.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{name} is not plain YAML, and is not read: it could run code"
        ) from error
    for target in _targets(content):
        # By its library first: importing a module runs it.
        is_known = target.partition(".")[0] in {name.partition(".")[0] for name in TRUSTED_MODULES}
        function = locate_target(target) if is_known else None
        # Where it is defined counts: names can lead from one module to another.
        module = getattr(function, "__module__", None) or ""
        if not any(f"{module}.".startswith(f"{trusted}.") for trusted in TRUSTED_MODULES):
            raise ConfigError(
                f"{name} names '{target}', which is not of the model's libraries and is not "
                "called; load the config and weights with mvit_det.Predictor if you trust them"
            )


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "_target_" in value:
            yield str(value["_target_"])
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _targets(each)


def _last_metrics(folder: Path) -> dict[str, float]:
    """The metrics of the last evaluation of a training, by name: "bbox/AP" and so on."""
    path = folder / "metrics.json"
    found: dict[str, float] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            found.update({key: entry[key] for key in entry if "AP" in key or "top" in key})
    return found


def _card(
    folder: Path,
    model: Model,
    metrics: Mapping[str, float],
    licence: str,
    has_image: bool,
) -> str:
    """The model card: what the model is, its metrics, and how to use it."""
    task = TASKS[type(model)]
    header = {"library_name": "mvit_det", "pipeline_tag": task, "tags": ["mvitv2", "detectron2"]}
    if licence:
        header["license"] = licence
    parameters = sum(parameter.numel() for parameter in model.model.parameters()) / 1e6
    lines = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {folder.resolve().name}",
        f"{type(model.model).__name__} with an MViTv2 backbone, {parameters:.1f} M parameters, "
        f"{len(model.class_names)} classes: {', '.join(model.class_names)}.",
        "```python\nimport mvit_det\n\n"
        f'model = mvit_det.from_pretrained("{folder.resolve().name}")\n'
        'print(model("photo.jpg"))\n```',
    ]
    if metrics:
        rows = "\n".join(f"| {name} | {value:.2f} |" for name, value in metrics.items())
        lines.append(f"## Metrics\n\n| metric | value |\n|---|---|\n{rows}")
    if has_image:
        lines.append(f"## Predictions\n\n![Predictions on validation images]({IMAGE})")
    lines.append(f"Written by mvit_det {__version__}.")
    return "\n\n".join(lines) + "\n"
