"""The published models by name: what is known of them, their configs, and the models themselves.

    from mvit_det import model_zoo

    model_zoo.list_models()
    model = model_zoo.get_model("cascade_mask_rcnn_mvitv2_s", trained=True)

The figures are the publishers': those of the detectors from Detectron2's page of MViTv2, on COCO
val2017; those of the ImageNet models from facebookresearch/mvit. Detectron2's model zoo licenses
its models under CC BY-SA 3.0 (its page of MViTv2, which links to these, names no licence of its
own); facebookresearch/mvit is under Apache-2.0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import nn

from .checkpoint import load_weights
from .checkpoint.download import DETECTRON2_URL
from .errors import ConfigError
from .modeling import mvitv2_b, mvitv2_h, mvitv2_l, mvitv2_s, mvitv2_t

if TYPE_CHECKING:
    from omegaconf import DictConfig

_MVIT_URL = "https://dl.fbaipublicfiles.com/mvit/mvitv2_models/"
_SIZES = {"t": mvitv2_t, "s": mvitv2_s, "b": mvitv2_b, "l": mvitv2_l, "h": mvitv2_h}


@dataclass(frozen=True)
class ZooModel:
    """What is known of a published model.

    Attributes:
        name: by which it is called here.
        url: of its weights.
        licence: of its weights, as the publisher states it.
        pretraining: "IN1K" or "IN21K", the part of ImageNet that the backbone has seen.
        epochs: of training on COCO; None for ImageNet models.
        box_ap, mask_ap: on COCO val2017, in percent; None for ImageNet models.
        accuracy: top-1 on ImageNet-1K at 224 pixels, in percent; None where not published.
        parameters: in millions.
        flops: in 10^9 multiply-adds: of detectors for a COCO image, of others for 224 pixels.
        config: of a detector, within `configs/`; '' for ImageNet models.
        size: of an ImageNet model, a letter.
        arguments: of an ImageNet model, in which it differs from its size.
    """

    name: str
    url: str
    licence: str
    pretraining: str
    parameters: int
    flops: float
    epochs: int | None = None
    box_ap: float | None = None
    mask_ap: float | None = None
    accuracy: float | None = None
    config: str = ""
    size: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _detector(
    name: str,
    file: str,
    pretraining: str,
    epochs: int,
    box_ap: float,
    mask_ap: float,
    parameters: int,
    flops: float,
) -> ZooModel:
    return ZooModel(
        name=name,
        url=f"{DETECTRON2_URL}MViTv2/{file}",
        licence="CC BY-SA 3.0",
        pretraining=pretraining,
        epochs=epochs,
        box_ap=box_ap,
        mask_ap=mask_ap,
        parameters=parameters,
        flops=flops,
        config=f"COCO/{name}.py",
    )


def _classifier(
    size: str,
    pretraining: str,
    accuracy: float | None,
    parameters: int,
    flops: float,
    **arguments: Any,
) -> ZooModel:
    suffix = pretraining.lower()
    return ZooModel(
        name=f"mvitv2_{size}_{suffix}",
        url=f"{_MVIT_URL}MViTv2_{size.upper()}_{suffix}.pyth",
        licence="Apache-2.0",
        pretraining=pretraining,
        accuracy=accuracy,
        parameters=parameters,
        flops=flops,
        size=size,
        arguments=MappingProxyType(arguments),
    )


# fmt: off
_MODELS = (
    _detector("mask_rcnn_mvitv2_t",
              "mask_rcnn_mvitv2_t_3x/f307611773/model_final_1a1c30.pkl",
              "IN1K", 36, 48.3, 43.8, 44, 279),
    _detector("cascade_mask_rcnn_mvitv2_t",
              "cascade_mask_rcnn_mvitv2_t_3x/f308344828/model_final_c6967a.pkl",
              "IN1K", 36, 52.2, 45.0, 76, 701),
    _detector("cascade_mask_rcnn_mvitv2_s",
              "cascade_mask_rcnn_mvitv2_s_3x/f308344647/model_final_279baf.pkl",
              "IN1K", 36, 53.2, 46.0, 87, 748),
    _detector("cascade_mask_rcnn_mvitv2_b",
              "cascade_mask_rcnn_mvitv2_b_3x/f308109448/model_final_421a91.pkl",
              "IN1K", 36, 54.1, 46.7, 103, 814),
    _detector("cascade_mask_rcnn_mvitv2_b_in21k",
              "cascade_mask_rcnn_mvitv2_b_in12k_3x/f309003202/model_final_be5168.pkl",
              "IN21K", 36, 54.9, 47.4, 103, 814),
    _detector("cascade_mask_rcnn_mvitv2_l_in21k",
              "cascade_mask_rcnn_mvitv2_l_in12k_lsj_50ep/f308099658/model_final_c41c5a.pkl",
              "IN21K", 50, 55.8, 48.3, 270, 1519),
    _detector("cascade_mask_rcnn_mvitv2_h_in21k",
              "cascade_mask_rcnn_mvitv2_h_in12k_lsj_3x/f309013744/model_final_30d36b.pkl",
              "IN21K", 36, 56.1, 48.5, 718, 3084),
    _classifier("t", "IN1K", 82.3, 24, 4.7),
    _classifier("s", "IN1K", 83.6, 35, 7.0),
    _classifier("b", "IN1K", 84.4, 52, 10.2),
    _classifier("l", "IN1K", 85.3, 218, 42.1, expand_attn=False),
    _classifier("b", "IN21K", None, 52, 10.2),
    _classifier("l", "IN21K", 87.5, 218, 42.1),
    _classifier("h", "IN21K", 88.0, 667, 120.6),
)
# fmt: on

MODELS: Mapping[str, ZooModel] = MappingProxyType({model.name: model for model in _MODELS})


def list_models() -> list[str]:
    """Names of the published models: the detectors, and the ImageNet models they start from."""
    return list(MODELS)


def get_config(name: str) -> "DictConfig":
    """The config of a published detector.

    Its `train.init_checkpoint` names what the training started from; the weights of the detector
    are at the model's `url`.

    Raises:
        ConfigError: there is no such model, or it is no detector and so has no config.
    """
    # Only this needs Detectron2.
    from detectron2.config import LazyConfig

    return LazyConfig.load(str(config_path(name)))


def config_path(name: str) -> Path:
    """The config file of a published detector.

    Raises:
        ConfigError: as `get_config`.
    """
    model = _find(name)
    if not model.config:
        detectors = ", ".join(model.name for model in _MODELS if model.config)
        raise ConfigError(f"'{name}' is a backbone and has no config; these have one: {detectors}")
    return configs_folder() / model.config


def get_model(name: str, *, trained: bool = False) -> nn.Module:
    """Builds a published model, on the CPU and in training mode.

    Args:
        name: of `list_models()`. An ImageNet model gives the backbone `MViTv2`.
        trained: downloads its weights, once, and fills it with them.

    Raises:
        ConfigError: there is no such model.
        CheckpointError: the weights cannot be had.
    """
    model = _find(name)
    if not model.config:
        backbone = _SIZES[model.size](**model.arguments)
        if trained:
            # ImageNet models have no norms of the outputs.
            load_weights(backbone, model.url, purpose="train")
        return backbone

    from detectron2.config import instantiate

    detector = instantiate(get_config(name).model)
    if trained:
        load_weights(detector, model.url)
    return detector


def _find(name: str) -> ZooModel:
    if name not in MODELS:
        raise ConfigError(f"there is no model '{name}'; there are {', '.join(MODELS)}")
    return MODELS[name]


def configs_folder() -> Path:
    """`configs/`, which an installed package holds and a checkout has beside the package."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
