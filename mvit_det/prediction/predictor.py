"""From images to predictions, with the numbers that an evaluation computes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, overload

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ..acceleration import accelerate
from ..config import find_config
from ..data.images import read_image
from ..detection.build import wrap_detector
from ..detection.merging import LOWEST_SCORE
from ..errors import CheckpointError, ConfigError, ImageError
from ..model_zoo import list_detectors
from ..runtime.checks import check_count
from ..runtime.preprocessing import check_array
from .classes import find_category_ids, find_class_names, find_stuff
from .panoptic import read_output
from .prediction import Prediction
from .trained import TrainedModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# An image: the path of its file, or (H, W, 3) uint8 RGB.
Source = str | Path | np.ndarray
Sources = list[Any] | tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image, (H, W, 3) uint8 RGB, and its resized form for the model, (3, h, w) uint8."""

    image: np.ndarray
    model_input: Tensor


class Predictor(TrainedModel):
    """A detector that takes images as they are and returns boxes, masks, classes and scores.

        predictor = Predictor("output/config.yaml", "output/model_final.pth", score_threshold=0.5)
        prediction = predictor("photo.jpg")
        prediction.instances.pred_boxes
        prediction.save("photo_with_boxes.jpg")

    Resizing and channel order follow `dataloader.test.mapper` of the config, so the results equal
    those of an evaluation: bit for bit with `batch_size=1`, which evaluations use, and up to
    rounding with larger batches.

    The entry `inference` of the config, such as `inference.tta.short_sides=[600,800]` or
    `inference.slices.tile_size=1024`, turns on test-time augmentation or slices; see
    `mvit_det.detection`.

    Attributes:
        detector: the model, or with test-time augmentation or slices its wrapper.
        class_names: one for each class, from the checkpoint; if that has none, from
            `data.class_names` of the config, then from the dataset that the config evaluates on if
            its number of classes is the model's, then "class 0" and so on.
        category_ids: of each class in its dataset, from the same places.
    """

    def __init__(
        self,
        config: str | Path | DictConfig,
        weights: str | Path | None = None,
        *,
        score_threshold: float | None = None,
        device: str | torch.device | None = None,
        dtype: str = "fp32",
        batch_size: int = 1,
        trust_checkpoint: bool = False,
    ) -> None:
        """Builds the model and loads its weights.

        Args:
            config: a config file, such as the `config.yaml` that a training writes to its output
                folder; a loaded config; or the name of a published detector.
            weights: file or URL; by default those of the published detector.
            score_threshold: lowest score of an instance, in [0, 1]; by default the model's
                `test_score_thresh`, as in an evaluation.
            device: such as 'cpu', 'cuda' or 'cuda:1'; by default CUDA if available, else the CPU,
                whatever device the training used.
            dtype: "fp32", or for autocast "bf16" or, on GPUs, "fp16": faster where the hardware
                computes in it, with rounded results. Evaluations use fp32.
            batch_size: maximum number of images in one forward pass. Only images of the same size
                after resizing share one, so that none gets extra padding.
            trust_checkpoint: allow the weights file to run code while it is read.

        Raises:
            ConfigError: the config, the threshold or the batch size is invalid.
            CheckpointError: the weights cannot be found or read, or do not fit the config.
            DeviceError: the device does not exist on this machine.
        """
        if score_threshold is not None:
            is_number = isinstance(score_threshold, Real)
            if not is_number or not 0 <= score_threshold <= 1:
                raise ConfigError(
                    f"score_threshold is {score_threshold!r}; it must be a number from 0 to 1"
                )
        if dtype not in DTYPES:
            raise ConfigError(f"dtype is '{dtype}'; it must be one of {', '.join(DTYPES)}")
        check_count("batch_size", batch_size)
        if not isinstance(config, DictConfig):
            config, published = find_config(config)
            weights = weights or published
        if not weights:
            raise CheckpointError(
                "no weights to predict with: give the file or URL of weights that were trained "
                "with this config (weights=…, '--weights'), or in place of the config the name of "
                f"a published detector: {', '.join(list_detectors())}"
            )
        mapper = OmegaConf.select(config, "dataloader.test.mapper")
        if mapper is None or "model" not in config:
            raise ConfigError(
                "the config lacks 'model' or 'dataloader.test.mapper', which define the detector "
                "and how its images are resized; use the config of the training"
            )
        if "classifier" in config.model:
            raise ConfigError(
                "the config is a classifier's, which finds no objects: use mvit_det.Classifier or "
                "tools/classify.py, or take a detector's config"
            )
        if mapper.image_format not in ("RGB", "BGR"):
            raise ConfigError(
                "dataloader.test.mapper.image_format must be 'RGB' or 'BGR' for predictions, not "
                f"'{mapper.image_format}'"
            )
        self.batch_size = batch_size
        self._dtype = DTYPES[dtype]
        self._image_format = mapper.image_format
        self._augmentations = T.AugmentationList(instantiate(mapper.augmentations))
        super().__init__(config, weights, device, trust_checkpoint)
        accelerate(self.model)
        self.detector = self._choose_detector(config, score_threshold)
        num_classes = _count_classes(self.model)
        self.class_names = find_class_names(config, self.metadata, weights, num_classes)
        self.category_ids = find_category_ids(config, self.metadata, weights, num_classes)
        head = getattr(self.model, "sem_seg_head", None)
        self._stuff: dict[int, str] = {}
        if head is not None:
            num_kinds = head.predictor.out_channels
            self._stuff = find_stuff(config, self.category_ids, num_kinds)

    @overload
    def __call__(self, images: Source) -> Prediction: ...

    @overload
    def __call__(self, images: Sources) -> list[Prediction]: ...

    def __call__(self, images: Source | Sources) -> Prediction | list[Prediction]:
        """Detects objects in one image or several.

        Args:
            images: path of an image; an array (H, W, 3) of uint8 in RGB order, whatever order the
                config names (`array[:, :, ::-1]` turns OpenCV's BGR into it); or a list or tuple
                of these.

        Returns:
            A prediction; for a list, one prediction per image in the same order.

        Raises:
            ImageError: an image cannot be read, or an array has another shape or type.
            DeviceError: the predictor was built on CUDA before this process was forked.
        """
        if isinstance(images, (list, tuple)):
            return self.predict([self.prepare(image) for image in images])
        return self.predict([self.prepare(images)])[0]

    def prepare(self, source: Source) -> PreparedImage:
        """Reads, checks and resizes an image. All errors about images are raised here.

        Raises:
            ImageError: the image cannot be read, or the array has another shape or type.
        """
        if isinstance(source, (str, Path)):
            image, name = read_image(source), f"the image '{source}'"
        else:
            image, name = source, "the image"
            check_array(image)
        model_order = image if self._image_format == "RGB" else image[:, :, ::-1]
        # The same steps as Detectron2's `DatasetMapper` in an evaluation.
        augmented = T.AugInput(np.ascontiguousarray(model_order))
        if self.detector is not self.model:
            return PreparedImage(image, torch.from_numpy(augmented.image).permute(2, 0, 1))
        try:
            self._augmentations(augmented)
        except ValueError as error:
            height, width = image.shape[:2]
            raise ImageError(
                f"{name} has {height} x {width} pixels and would have none after the resizing of "
                "dataloader.test.mapper; crop it"
            ) from error
        pixels = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        return PreparedImage(image, torch.as_tensor(pixels))

    def predict(self, prepared: Sequence[PreparedImage]) -> list[Prediction]:
        """Detects objects in prepared images; those of equal size share a forward pass."""
        of_size = defaultdict(list)
        for index, image in enumerate(prepared):
            of_size[image.model_input.shape].append(index)
        predictions: dict[int, Prediction] = {}
        with self.predicting():
            for indexes in of_size.values():
                for start in range(0, len(indexes), self.batch_size):
                    batch = indexes[start : start + self.batch_size]
                    found = self._run([prepared[index] for index in batch])
                    predictions.update(zip(batch, found))
        return [predictions[index] for index in range(len(prepared))]

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
                image.image,
                output["instances"].to("cpu"),
                self.class_names,
                self.category_ids,
                read_output(output, self.class_names, self.category_ids, self._stuff),
            )
            for image, output in zip(batch, self._detect(inputs))
        ]

    def _detect(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        enabled = self._dtype != torch.float32
        with torch.autocast(self.device.type, self._dtype, enabled=enabled):
            outputs: list[dict[str, Any]] = self.detector(inputs)
        for output in outputs:
            # NumPy has no bf16.
            output["instances"].scores = output["instances"].scores.float()
        return outputs

    def _choose_detector(self, config: DictConfig, score_threshold: float | None) -> Any:
        """The model itself, or what looks at several views of an image with it.

        Raises:
            ConfigError: a field of `inference` is out of its range or does not suit the model.
        """
        merges_by_fusion = OmegaConf.select(config, "inference.merge.method") == "fusion"
        wrapper = wrap_detector(
            self.model,
            config.get("inference"),
            self._augmentations.augs,
            score_threshold=LOWEST_SCORE if score_threshold is None else score_threshold,
        )
        # Fusion changes scores: a box below the threshold may belong to one above it.
        if score_threshold is not None and not (wrapper and merges_by_fusion):
            _set_score_threshold(self.model, score_threshold)
        return wrapper or self.model


def _set_score_threshold(model: nn.Module, threshold: float) -> None:
    """Sets the threshold of the box heads, or of a detector without region proposals."""
    module: Any
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = threshold


def _count_classes(model: nn.Module) -> int:
    """The number of classes of the box heads, or of a detector without region proposals.

    Raises:
        ConfigError: the model has none, so it cannot detect instances.
    """
    for module in (getattr(model, "roi_heads", None), model):
        count = getattr(module, "num_classes", None)
        if count is not None:
            return int(count)
    raise ConfigError(
        f"a {type(model).__name__} is not a detector: it has neither 'roi_heads' with "
        "'num_classes' nor 'num_classes' itself; use a config of a detector, such as those in "
        "'configs/'"
    )
