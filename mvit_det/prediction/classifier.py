"""Image classification with a trained model, with the scores that an evaluation computes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor
from torchvision.models import get_weight

from ..checkpoint import fill_model, read_weights
from ..config import build_model, choose_device, find_config
from ..data.images import read_image
from ..errors import CheckpointError, ConfigError
from ..runtime.preprocessing import check_array
from .predictor import Source, Sources, check_count

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class ClassScore:
    """A class of an image.

    Attributes:
        class_id: index into the model's classes.
        name: of the class.
        score: probability in [0, 1].
    """

    class_id: int
    name: str
    score: float


class Classifier:
    """A classifier with the preprocessing of its evaluation and the names of its classes.

        classifier = Classifier("output/classifier/config.yaml", "output/classifier/model_best.pth")
        for best in classifier("photo.jpg"):
            print(f"{best.score:.1%}  {best.name}")

    Attributes:
        model: the `ImageClassifier`, in evaluation mode.
        class_names: one name per class: the checkpoint's, else `data.class_names` of the config,
            else ImageNet's for 1000 classes, else "class 0" and so on.
    """

    def __init__(
        self,
        config: str | Path | DictConfig,
        weights: str | Path | None = None,
        *,
        top: int = 5,
        device: str | torch.device | None = None,
        batch_size: int = 16,
        trust_checkpoint: bool = False,
    ) -> None:
        """Builds the model and loads its weights.

        Args:
            config: a config file, such as the `config.yaml` in the output folder of a training; a
                loaded config; or the name of a published model, such as "mvitv2_t_in1k".
            weights: path or URL; by default those of the published model.
            top: number of classes to return for each image.
            device: 'cpu' or 'cuda'; by default CUDA where there is any.
            batch_size: most images that go through the model at once.
            trust_checkpoint: lets the file of weights run code while it is read.

        Raises:
            ConfigError: the config is no classifier's, or `top` or the batch size is below 1.
            CheckpointError: the weights cannot be had or do not fit the config.
            DeviceError: CUDA is asked for and not available.
        """
        check_count("top", top)
        check_count("batch_size", batch_size)
        if not isinstance(config, DictConfig):
            config, published = find_config(config)
            weights = weights or published
        if not weights:
            raise CheckpointError(
                "there are no weights to classify with: name a file that was trained with this "
                "config (weights=…, '--weights'), or a published model instead of the config"
            )
        mapper = OmegaConf.select(config, "dataloader.test.mapper")
        if mapper is None or "classifier" not in config.get("model", {}):
            raise ConfigError(
                "the config is not a classifier's: it lacks 'model.classifier' or "
                "'dataloader.test.mapper'; take one of 'configs/ImageNet/' or of a training"
            )
        self.top = top
        self.batch_size = batch_size
        self._mapper = instantiate(mapper)
        content = read_weights(weights, trust=trust_checkpoint)
        self.model = build_model(config)
        fill_model(self.model, content, weights)
        self.model.to(choose_device(str(device or ""))).eval()
        self.class_names = _class_names(config, content.metadata, config.model.num_classes)

    @overload
    def __call__(self, images: Source) -> list[ClassScore]: ...

    @overload
    def __call__(self, images: Sources) -> list[list[ClassScore]]: ...

    def __call__(self, images: Source | Sources) -> Any:
        """Finds the most probable classes of one image or several.

        Args:
            images: the path of an image; an array (H, W, 3) uint8 RGB; or a list or tuple of these.

        Returns:
            The `top` classes, the most probable first; for a list one such list for each image.

        Raises:
            ImageError: an image cannot be read, or an array is no such image.
        """
        if not isinstance(images, (list, tuple)):
            return self([images])[0]
        results: list[list[ClassScore]] = []
        for start in range(0, len(images), self.batch_size):
            prepared = [self.prepare(image) for image in images[start : start + self.batch_size]]
            results += self.classify(prepared)
        return results

    def prepare(self, source: Source) -> Tensor:
        """Reads, checks and crops an image as an evaluation does, to (3, S, S) uint8.

        Raises:
            ImageError: as a call.
        """
        if isinstance(source, (str, Path)):
            pixels = read_image(source)
        else:
            check_array(source)
            pixels = source
        image = self._mapper.transform(Image.fromarray(np.ascontiguousarray(pixels)))
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())

    @torch.no_grad()
    def classify(self, prepared: Sequence[Tensor]) -> list[list[ClassScore]]:
        """Finds the most probable classes of prepared images."""
        results = []
        for output in self.model([{"image": image} for image in prepared]):
            scores, classes = output["scores"].topk(min(self.top, len(self.class_names)))
            results.append(
                [
                    ClassScore(index, self.class_names[index], score)
                    for index, score in zip(classes.tolist(), scores.tolist())
                ]
            )
        return results


def _class_names(config: DictConfig, metadata: dict[str, Any], num_classes: int) -> tuple[str, ...]:
    """One name per class; `Classifier` says where they come from.

    Raises:
        ConfigError: there are names, but not as many as classes.
    """
    names = metadata.get("class_names") or OmegaConf.select(config, "data.class_names")
    if names:
        if len(names) != num_classes:
            raise ConfigError(
                f"there are {len(names)} class names, and the model has {num_classes} classes; set "
                f"model.num_classes={len(names)}"
            )
        return tuple(names)
    if num_classes == IMAGENET_CLASSES:
        return imagenet_class_names()
    return tuple(f"class {index}" for index in range(num_classes))


def imagenet_class_names() -> tuple[str, ...]:
    """The 1000 names of ImageNet-1K in the order of its classes, as torchvision spells them."""
    return tuple(get_weight("ResNet50_Weights.IMAGENET1K_V1").meta["categories"])
