"""Published models by name: their results, configs and weights.

    from mvit_det import model_zoo

    model_zoo.list_models()
    model = model_zoo.get_model("cascade_mask_rcnn_mvitv2_s", trained=True)

The results are the publishers': those of detectors, on COCO val2017 or LVIS v1 val, are from
Detectron2's projects MViTv2 and ViTDet, those on ImageNet from facebookresearch/mvit, those on
Kinetics-400 and Something-Something v2 from facebookresearch/SlowFast. Detectron2's model zoo
licenses its models under CC BY-SA 3.0 (the pages of the two projects state no licence of their
own); facebookresearch/mvit and SlowFast are under Apache-2.0.
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
_SLOWFAST_URL = "https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/"
_SIZES = {"t": mvitv2_t, "s": mvitv2_s, "b": mvitv2_b, "l": mvitv2_l, "h": mvitv2_h}
# Classes of the ImageNet weights. The ImageNet-21K files are pre-trainings; the models fine-tuned
# from them on ImageNet-1K (L: 87.5 % top-1, H: 88.0 %) were not published.
_NUM_CLASSES = {"IN1K": 1000, "IN21K": 19168, "K400": 400, "SSv2": 174}


@dataclass(frozen=True)
class ZooModel:
    """A published model: a detector, an ImageNet classifier that detectors start from, or a video
    classifier.

    Attributes:
        name: key in `MODELS`.
        url: address of the weights.
        licence: licence of the weights, as the publisher states it.
        pretraining: "IN1K" or "IN21K", the ImageNet variant that the backbone was trained on; of
            a video classifier its dataset, "K400" or "SSv2".
        parameters: in millions, with the head; of the ImageNet-21K models and of the detectors at
            1024 pixels counted here.
        flops: in 10^9 multiply-adds, for a COCO image (detectors), 224 x 224 pixels or one view of
            a video; None where they were not published.
        config: file relative to `configs/`.
        epochs: length of a detector's training.
        box_ap, mask_ap: of a detector on its validation set, in percent.
        size: letter of an ImageNet model or video classifier; '' for detectors.
        num_classes: logits of an ImageNet model or video classifier.
        accuracy: top-1 in percent: of an ImageNet model on ImageNet-1K at 224 pixels, None if the
            weights have other classes; of a video classifier on its dataset, with `views`.
        views: clips x crops of a video classifier's accuracy; '' for others.
        arguments: of an ImageNet model, where it differs from its size.
    """

    name: str
    url: str
    licence: str
    pretraining: str
    parameters: int
    flops: float | None
    config: str = ""
    epochs: int | None = None
    box_ap: float | None = None
    mask_ap: float | None = None
    size: str = ""
    num_classes: int | None = None
    accuracy: float | None = None
    views: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_detector(self) -> bool:
        """Whether this is a detector."""
        return not self.size

    @property
    def is_video(self) -> bool:
        """Whether this classifies videos."""
        return bool(self.views)


def _detector(
    config: str,
    file: str,
    pretraining: str,
    epochs: int,
    box_ap: float,
    mask_ap: float,
    parameters: int,
    flops: float | None = None,
) -> ZooModel:
    return ZooModel(
        name=Path(config).name,
        url=DETECTRON2_URL + file,
        licence="CC BY-SA 3.0",
        pretraining=pretraining,
        parameters=parameters,
        flops=flops,
        config=f"{config}.py",
        epochs=epochs,
        box_ap=box_ap,
        mask_ap=mask_ap,
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
        parameters=parameters,
        flops=flops,
        config=f"ImageNet/mvitv2_{size}{'' if pretraining == 'IN1K' else '_in21k'}.py",
        size=size,
        num_classes=_NUM_CLASSES[pretraining],
        accuracy=accuracy,
        arguments=MappingProxyType(arguments),
    )


def _video(
    name: str,
    file: str,
    config: str,
    dataset: str,
    accuracy: float,
    views: str,
    parameters: int,
    flops: float,
) -> ZooModel:
    return ZooModel(
        name=name,
        url=_SLOWFAST_URL + file,
        licence="Apache-2.0",
        pretraining=dataset,
        parameters=parameters,
        flops=flops,
        config=f"{config}.py",
        size=config.partition("mvitv")[2][2],
        num_classes=_NUM_CLASSES[dataset],
        accuracy=accuracy,
        views=views,
    )


# fmt: off
_MODELS = (
    _detector("COCO/mask_rcnn_mvitv2_t",
              "MViTv2/mask_rcnn_mvitv2_t_3x/f307611773/model_final_1a1c30.pkl",
              "IN1K", 36, 48.3, 43.8, 44, 279),
    _detector("COCO/cascade_mask_rcnn_mvitv2_t",
              "MViTv2/cascade_mask_rcnn_mvitv2_t_3x/f308344828/model_final_c6967a.pkl",
              "IN1K", 36, 52.2, 45.0, 76, 701),
    _detector("COCO/cascade_mask_rcnn_mvitv2_s",
              "MViTv2/cascade_mask_rcnn_mvitv2_s_3x/f308344647/model_final_279baf.pkl",
              "IN1K", 36, 53.2, 46.0, 87, 748),
    _detector("COCO/cascade_mask_rcnn_mvitv2_b",
              "MViTv2/cascade_mask_rcnn_mvitv2_b_3x/f308109448/model_final_421a91.pkl",
              "IN1K", 36, 54.1, 46.7, 103, 814),
    _detector("COCO/cascade_mask_rcnn_mvitv2_b_in21k",
              "MViTv2/cascade_mask_rcnn_mvitv2_b_in12k_3x/f309003202/model_final_be5168.pkl",
              "IN21K", 36, 54.9, 47.4, 103, 814),
    _detector("COCO/cascade_mask_rcnn_mvitv2_l_in21k",
              "MViTv2/cascade_mask_rcnn_mvitv2_l_in12k_lsj_50ep/f308099658/model_final_c41c5a.pkl",
              "IN21K", 50, 55.8, 48.3, 270, 1519),
    _detector("COCO/cascade_mask_rcnn_mvitv2_h_in21k",
              "MViTv2/cascade_mask_rcnn_mvitv2_h_in12k_lsj_3x/f309013744/model_final_30d36b.pkl",
              "IN21K", 36, 56.1, 48.5, 718, 3084),
    _detector("COCO/cascade_mask_rcnn_mvitv2_b_in21k_1024",
              "ViTDet/COCO/cascade_mask_rcnn_mvitv2_b_in21k/f325820315/model_final_8c3da3.pkl",
              "IN21K", 100, 55.6, 48.1, 103),
    _detector("COCO/cascade_mask_rcnn_mvitv2_l_in21k_1024",
              "ViTDet/COCO/cascade_mask_rcnn_mvitv2_l_in21k/f325607715/model_final_2141b0.pkl",
              "IN21K", 50, 55.7, 48.3, 265),
    _detector("COCO/cascade_mask_rcnn_mvitv2_h_in21k_1024",
              "ViTDet/COCO/cascade_mask_rcnn_mvitv2_h_in21k/f326187358/model_final_2234d7.pkl",
              "IN21K", 36, 55.9, 48.3, 718),
    _detector("LVIS/cascade_mask_rcnn_mvitv2_b_in21k_lvis",
              "ViTDet/LVIS/cascade_mask_rcnn_mvitv2_b_in21k/329477206/model_final_a00567.pkl",
              "IN21K", 100, 46.3, 42.0, 107),
    _detector("LVIS/cascade_mask_rcnn_mvitv2_l_in21k_lvis",
              "ViTDet/LVIS/cascade_mask_rcnn_mvitv2_l_in21k/329661552/model_final_7838a5.pkl",
              "IN21K", 50, 49.4, 44.2, 269),
    _detector("LVIS/cascade_mask_rcnn_mvitv2_h_in21k_lvis",
              "ViTDet/LVIS/cascade_mask_rcnn_mvitv2_h_in21k/330445165/model_final_ad4220.pkl",
              "IN21K", 50, 49.5, 44.1, 722),
    _classifier("t", "IN1K", 82.3, 24, 4.7),
    _classifier("s", "IN1K", 83.6, 35, 7.0),
    _classifier("b", "IN1K", 84.4, 52, 10.2),
    _classifier("l", "IN1K", 85.3, 218, 42.1, expand_attn=False),
    _classifier("b", "IN21K", None, 65, 10.2),
    _classifier("l", "IN21K", None, 235, 42.1),
    _classifier("h", "IN21K", None, 695, 120.6),
    _video("video_mvitv2_s_k400", "mvitv2/pysf_video_models/MViTv2_S_16x4_k400_f302660347.pyth",
           "Kinetics/mvitv2_s", "K400", 81.0, "5 x 1", 34, 64.2),
    _video("video_mvitv2_b_k400", "mvitv2/pysf_video_models/MViTv2_B_32x3_k400_f304025456.pyth",
           "Kinetics/mvitv2_b", "K400", 82.9, "5 x 1", 51, 224.5),
    _video("video_mvitv2_l_k400", "mvitv2/pysf_video_models/MViTv2_L_40x3_k400_f306903192.pyth",
           "Kinetics/mvitv2_l", "K400", 86.1, "5 x 3", 213, 2823),
    _video("video_mvitv1_b_k400", "mvit/k400.pyth",
           "Kinetics/mvitv1_b_32x3", "K400", 80.4, "5 x 1", 37, 170.0),
    _video("video_mvitv2_s_ssv2", "mvitv2/pysf_video_models/MViTv2_S_16x4_ssv2_f308341823.pyth",
           "SSv2/mvitv2_s", "SSv2", 68.2, "1 x 3", 34, 64.2),
    _video("video_mvitv2_b_ssv2", "mvitv2/pysf_video_models/MViTv2_B_32x3_ssv2_f305803282.pyth",
           "SSv2/mvitv2_b", "SSv2", 70.5, "1 x 3", 51, 224.5),
)
# fmt: on

MODELS: Mapping[str, ZooModel] = MappingProxyType({model.name: model for model in _MODELS})


def list_models() -> list[str]:
    """Names of the published models: detectors, ImageNet models, and video classifiers."""
    return list(MODELS)


def list_detectors() -> list[str]:
    """Names of the published detectors."""
    return [model.name for model in _MODELS if model.is_detector]


def get_config(name: str) -> "DictConfig":
    """Loads the config of a published model.

    For a detector, `train.init_checkpoint` names the ImageNet weights that the training started
    from; the weights of the detector itself are at the model's `url`.

    Raises:
        ConfigError: no published model has this name.
    """
    # The rest of the module works without Detectron2.
    from detectron2.config import LazyConfig

    return LazyConfig.load(str(config_path(name)))


def config_path(name: str) -> Path:
    """The config file of a published model.

    Raises:
        ConfigError: no published model has this name.
    """
    return configs_folder() / _find(name).config


def get_model(name: str, *, trained: bool = False) -> nn.Module:
    """Builds a published model, on the CPU and in training mode.

    Args:
        name: one of `list_models()`. For an ImageNet model the result is its backbone, `MViTv2`;
            for a video classifier a `VideoMViT`.
        trained: load the published weights, which are downloaded once.

    Raises:
        ConfigError: no published model has this name.
        CheckpointError: the weights cannot be downloaded or read.
    """
    model = _find(name)
    if not (model.is_detector or model.is_video):
        backbone = _SIZES[model.size](**model.arguments)
        if trained:
            # ImageNet models lack the norms of the outputs, which only purpose="train" accepts.
            load_weights(backbone, model.url, purpose="train")
        return backbone

    from detectron2.config import instantiate

    config = get_config(name).model
    if model.is_video:
        config.classifier.num_classes = model.num_classes
    built = instantiate(config.classifier if model.is_video else config)
    if trained:
        load_weights(built, model.url)
    return built


def list_configs() -> list[str]:
    """Names of all configs that can be trained, such as "shapes/mask_rcnn_mvitv2_pico"."""
    folder = configs_folder()
    names = (path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.py"))
    return sorted(name for name in names if not name.startswith("common/"))


def configs_folder() -> Path:
    """`configs/`: inside an installed package, or next to the package in a checkout."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _find(name: str) -> ZooModel:
    if name not in MODELS:
        raise ConfigError(f"no published model '{name}'; choose one of {', '.join(MODELS)}")
    return MODELS[name]
