"""Image classification with a trained model, with the scores that an evaluation computes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor
from torchvision.models import get_weight

from ..config import find_config
from ..data.classification_mapper import ClassificationMapper
from ..data.images import read_image
from ..errors import CheckpointError, ConfigError
from ..runtime.checks import check_count
from ..runtime.classification import ClassScore, rank_classes
from ..runtime.preprocessing import check_array
from .classes import find_class_names
from .predictor import Source, Sources
from .trained import TrainedModel

IMAGENET_CLASSES = 1000


class TrainedClassifier(TrainedModel):
    """A model with the preprocessing of its evaluation and the names of its classes.

    Attributes:
        mapper: makes what the model takes.
        class_names: one name per class, see `find_class_names`; those of `standard_names` come
            before those of the dataset.
    """

    kind = "an image classifier"
    mapper_class: type = ClassificationMapper
    configs = "configs/ImageNet/"

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
            top: number of classes to return.
            device: 'cpu' or 'cuda'; by default CUDA where there is any.
            batch_size: most images or clips that go through the model at once.
            trust_checkpoint: lets the file of weights run code while it is read.

        Raises:
            ConfigError: the config is of another kind of model, or `top` or the batch size is below
                1.
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
        is_classifier = mapper is not None and "classifier" in config.get("model", {})
        self.mapper: Any = instantiate(mapper) if is_classifier else None
        if not isinstance(self.mapper, self.mapper_class):
            raise ConfigError(
                f"the config is not that of {self.kind}: it lacks 'model.classifier', or "
                f"'dataloader.test.mapper' is no {self.mapper_class.__name__}; take one of "
                f"'{self.configs}' or of a training"
            )
        self.top = top
        self.batch_size = batch_size
        super().__init__(config, weights, device, trust_checkpoint)
        num_classes = config.model.num_classes
        self.class_names = find_class_names(
            config, self.metadata, weights, num_classes, self.standard_names(num_classes)
        )

    def standard_names(self, num_classes: int) -> tuple[str, ...]:
        """Names for weights without any, if the number of classes is that of ImageNet; else ()."""
        return imagenet_class_names() if num_classes == IMAGENET_CLASSES else ()

    def rank(self, inputs: Iterable[Tensor]) -> list[list[ClassScore]]:
        """Runs the model, and ranks the `top` classes of each input, the most probable first."""
        with self.predicting():
            outputs = self.model([{"image": each} for each in inputs])
            scores = [output["scores"].numpy(force=True) for output in outputs]
        return [rank_classes(each, self.class_names, self.top) for each in scores]


class Classifier(TrainedClassifier):
    """An image classifier; arguments are those of `TrainedClassifier`.

    classifier = Classifier("output/classifier/config.yaml", "output/classifier/model_best.pth")
    for best in classifier("photo.jpg"):
        print(f"{best.score:.1%}  {best.name}")
    """

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
        image = self.mapper.transform(Image.fromarray(np.ascontiguousarray(pixels)))
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())

    def classify(self, prepared: Sequence[Tensor]) -> list[list[ClassScore]]:
        """Finds the most probable classes of prepared images."""
        return self.rank(prepared)


def imagenet_class_names() -> tuple[str, ...]:
    """The 1000 names of ImageNet-1K in the order of its classes, as torchvision spells them."""
    return tuple(get_weight("ResNet50_Weights.IMAGENET1K_V1").meta["categories"])
