"""From images to predictions, with the numbers that an evaluation computes."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ..checkpoint import fill_model, read_weights
from ..config import choose_device, load_config
from ..data.images import read_image
from ..data.shapes import SPLITS
from ..errors import CheckpointError, ConfigError, ImageError
from ..model_zoo import MODELS, config_path, list_detectors
from .prediction import Prediction

# An image: the path of its file, or (H, W, 3) uint8 RGB.
Source = str | Path | np.ndarray
Sources = list[Any] | tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image, (H, W, 3) uint8 RGB, and what the model gets of it, (3, h, w) uint8."""

    image: np.ndarray
    model_input: Tensor


class Predictor:
    """A detector with all that it needs to be used on images.

        predictor = Predictor("output/config.yaml", "output/model_final.pth", score_threshold=0.5)
        prediction = predictor("photo.jpg")
        prediction.instances.pred_boxes
        prediction.save("photo_with_boxes.jpg")

    How images are resized and which channel order the model takes are the config's, those of
    `dataloader.test.mapper`, so that boxes, scores, classes and masks equal those of an evaluation.
    With a `batch_size` of 1, which evaluations use, they do to the last bit; larger batches change
    the rounding.

    Attributes:
        model: the detector, in evaluation mode.
        class_names: one for each class: the checkpoint's, else `data.class_names` of the config,
            else those of the dataset that the config evaluates on, if it has as many classes, else
            "class 0" and so on.
    """

    def __init__(
        self,
        config: str | Path | DictConfig,
        weights: str | Path | None = None,
        *,
        score_threshold: float | None = None,
        device: str | None = None,
        batch_size: int = 1,
        trust_checkpoint: bool = False,
    ) -> None:
        """Builds the model and loads its weights.

        Args:
            config: a config file, such as the `config.yaml` that a training leaves in its output
                folder; a loaded config; or the name of a published detector.
            weights: file or address; by default those of the published detector.
            score_threshold: least score of an instance, in [0, 1]; by default the model's
                `test_score_thresh`, as in an evaluation.
            device: 'cpu' or 'cuda'; by default CUDA where there is any, wherever the training ran.
            batch_size: most images that go through the model at once. They have to have the same
                size when they are resized, so that none is padded more than by itself.
            trust_checkpoint: lets the file of weights run code while it is read.

        Raises:
            ConfigError: the config, the threshold or the batch size cannot be used.
            CheckpointError: the weights cannot be had or do not fit the config.
            DeviceError: CUDA is asked for and not available.
        """
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise ConfigError(f"score_threshold is {score_threshold}; it must be from 0 to 1")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        if not isinstance(config, DictConfig):
            config, published = find_config(config)
            weights = weights or published
        if not weights:
            raise CheckpointError(
                "there are no weights to predict with: name a file or an address of some that were "
                "trained with this config (weights=…, '--weights'), or take a published detector "
                f"instead of the config: {', '.join(list_detectors())}"
            )
        mapper = OmegaConf.select(config, "dataloader.test.mapper")
        if mapper is None or "model" not in config:
            raise ConfigError(
                "the config lacks 'model' or 'dataloader.test.mapper', which say what predicts and "
                "how images are resized for it; take the config of the training"
            )
        if mapper.image_format not in ("RGB", "BGR"):
            raise ConfigError(
                "dataloader.test.mapper.image_format must be 'RGB' or 'BGR' for predictions, not "
                f"'{mapper.image_format}'"
            )
        self.batch_size = batch_size
        self._image_format = mapper.image_format
        self._augmentations = T.AugmentationList(instantiate(mapper.augmentations))

        device = choose_device(device or "")
        content = read_weights(weights, trust=trust_checkpoint)
        self.model: nn.Module = instantiate(config.model)
        fill_model(self.model, content, weights)
        self.model.to(device).eval()
        if score_threshold is not None:
            _set_score_threshold(self.model, score_threshold)
        self.class_names = _class_names(
            config, content.metadata, weights, _count_classes(self.model)
        )
        self._category_ids = _category_ids(config, len(self.class_names))

    @overload
    def __call__(self, images: Source) -> Prediction: ...

    @overload
    def __call__(self, images: Sources) -> list[Prediction]: ...

    def __call__(self, images: Source | Sources) -> Prediction | list[Prediction]:
        """Finds what the model knows in one image or several.

        Args:
            images: the path of an image; an array (H, W, 3) uint8 in the order RGB, whatever the
                config says (OpenCV's BGR becomes that with `array[:, :, ::-1]`); or a list or tuple
                of these.

        Returns:
            A prediction; for a list one for each image, in the order of the list.

        Raises:
            ImageError: an image cannot be read, or an array is no such image.
        """
        if isinstance(images, (list, tuple)):
            return self.predict([self.prepare(image) for image in images])
        return self.predict([self.prepare(images)])[0]

    def prepare(self, source: Source) -> PreparedImage:
        """Reads, checks and resizes an image; all that can be wrong with it is found here.

        Raises:
            ImageError: as a call.
        """
        if isinstance(source, (str, Path)):
            image, name = read_image(source), f"the image '{source}'"
        else:
            image, name = source, "the image"
            _check_array(image)
        model_order = image if self._image_format == "RGB" else image[:, :, ::-1]
        # As Detectron2's `DatasetMapper` does it in an evaluation.
        augmented = T.AugInput(np.ascontiguousarray(model_order))
        try:
            self._augmentations(augmented)
        except ValueError as error:
            height, width = image.shape[:2]
            raise ImageError(
                f"{name} has {height} x {width} pixels, of which nothing is left when it is "
                "resized as dataloader.test.mapper says; crop it"
            ) from error
        pixels = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        return PreparedImage(image, torch.as_tensor(pixels))

    def predict(self, prepared: Sequence[PreparedImage]) -> list[Prediction]:
        """Finds what the model knows in prepared images, those of equal size at once."""
        of_size = defaultdict(list)
        for index, image in enumerate(prepared):
            of_size[image.model_input.shape].append(index)
        predictions: dict[int, Prediction] = {}
        for indexes in of_size.values():
            for start in range(0, len(indexes), self.batch_size):
                batch = indexes[start : start + self.batch_size]
                predictions.update(zip(batch, self._run([prepared[index] for index in batch])))
        return [predictions[index] for index in range(len(prepared))]

    @torch.no_grad()
    def _run(self, batch: Sequence[PreparedImage]) -> list[Prediction]:
        inputs = [
            {
                "image": image.model_input,
                "height": image.image.shape[0],
                "width": image.image.shape[1],
            }
            for image in batch
        ]
        return [
            Prediction(
                image.image, output["instances"].to("cpu"), self.class_names, self._category_ids
            )
            for image, output in zip(batch, self.model(inputs))
        ]


def find_config(config: str | Path, overrides: Sequence[str] = ()) -> tuple[DictConfig, str | None]:
    """The config of a file or of a published detector.

    Args:
        config: path of a file, or name of a detector.
        overrides: changes as `key.of.field=value`.

    Returns:
        The config, and the address of the weights of a published detector.

    Raises:
        ConfigError: there is no such config, or it or a change cannot be used.
    """
    name = str(config)
    if name in MODELS:
        return load_config(config_path(name), overrides), MODELS[name].url
    if not Path(config).suffix and not Path(config).exists():
        raise ConfigError(
            f"'{name}' is neither a config file (they lie under 'configs/') nor a published "
            f"detector; those are {', '.join(list_detectors())}"
        )
    return load_config(config, overrides), None


def _check_array(image: Any) -> None:
    """Refuses what is no image.

    Raises:
        ImageError: it is no array, or of another shape or type than (H, W, 3) uint8.
    """
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"a {type(image).__name__} is no image; give a path, a NumPy array (height, width, "
            "3) of uint8, or a list of these"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(
            f"an image has to be an array (height, width, 3) in the order RGB, not {image.shape}"
        )
    if image.size == 0:
        raise ImageError(f"the image is empty: its shape is {image.shape}")
    if image.dtype != np.uint8:
        raise ImageError(
            f"an image has to be of uint8 with values from 0 to 255, not of {image.dtype}; "
            "for values from 0 to 1 take (255 * image).round().astype('uint8')"
        )


def _set_score_threshold(model: nn.Module, threshold: float) -> None:
    """Of a box head, of all in a cascade, or of a detector without regions."""
    module: Any
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = threshold


def _count_classes(model: nn.Module) -> int:
    """Of its box heads, or its own, as of detectors without regions.

    Raises:
        ConfigError: it has none, and so finds no instances.
    """
    for module in (getattr(model, "roi_heads", None), model):
        count = getattr(module, "num_classes", None)
        if count is not None:
            return int(count)
    raise ConfigError(
        f"a {type(model).__name__} is no detector: it has no 'roi_heads' with 'num_classes', nor "
        "'num_classes' of its own; take a config of a detector, as those in 'configs/'"
    )


def _class_names(
    config: DictConfig, metadata: dict[str, Any], weights: str | Path, num_classes: int
) -> tuple[str, ...]:
    """One name for each class; where they come from is said in `Predictor`.

    Raises:
        CheckpointError, ConfigError: there are names, but not as many as classes.
    """
    names = metadata.get("class_names")
    if names:
        if len(names) != num_classes or not all(isinstance(name, str) for name in names):
            raise CheckpointError(
                f"'{weights}' names {len(names)} classes, and the model has {num_classes}; set "
                f"model.roi_heads.num_classes={len(names)}, or get the file anew"
            )
        return tuple(names)
    names = OmegaConf.select(config, "data.class_names")
    if names:
        if len(names) != num_classes:
            raise ConfigError(
                f"data.class_names has {len(names)} names, and the model has {num_classes} "
                f"classes; set model.roi_heads.num_classes={len(names)}"
            )
        return tuple(names)
    names = _metadata(config).get("thing_classes", ())
    if len(names) == num_classes:
        return tuple(names)
    return tuple(f"class {index}" for index in range(num_classes))


def _category_ids(config: DictConfig, num_classes: int) -> tuple[int, ...]:
    """The dataset's id for each class; the class's index if there is none of so many classes."""
    metadata = _metadata(config)
    of_category = metadata.get("thing_dataset_id_to_contiguous_id")
    annotations = OmegaConf.select(config, "data.val_json") or metadata.get("json_file")
    if of_category:
        ids = sorted(of_category, key=of_category.__getitem__)
    elif metadata.get("name") in SPLITS:
        ids = list(range(1, len(metadata.thing_classes) + 1))
    elif annotations and Path(annotations).is_file():
        dataset = json.loads(Path(annotations).read_text(encoding="utf-8"))
        ids = sorted(category["id"] for category in dataset["categories"])
    else:
        ids = []
    return tuple(ids) if len(ids) == num_classes else tuple(range(num_classes))


def _metadata(config: DictConfig) -> Any:
    """What Detectron2's catalog knows of the dataset that a config evaluates on; maybe nothing."""
    names = OmegaConf.select(config, "dataloader.test.dataset.names") or ""
    name = names if isinstance(names, str) else names[0]
    return MetadataCatalog.get(name) if name in MetadataCatalog.list() else {}
