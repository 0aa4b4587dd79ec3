"""The fields of a config: type, range, default and meaning of each, in one place.

`Train`, `Data` and `Inference` are the entries of these names: a new field is one line there. The
other entries are calls, whose fields and defaults belong to the function or class that is called;
`ARGUMENTS` adds the type, range and meaning of those that users change most. The checks of
`validation` and the tables of `docs/configuration.md` are derived from both.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import MappingProxyType, NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ..data.loading import BAD_IMAGE_POLICIES
from ..detection.heads import METHODS
from ..detection.merging import METHODS as MERGE_METHODS
from ..detection.merging import MergeSettings
from ..detection.slicing import SliceSettings
from ..detection.test_time_augmentation import TTASettings
from ..modeling.plan import ATTENTIONS

# How several ranks share the work, see `engine.parallel`.
STRATEGIES = ("ddp", "fsdp")
# NumPy takes no larger one.
MAX_SEED = 2**32 - 1
# Larger values are typing errors, which would be found hours later or by a machine without memory.
MAX_ITERATIONS = 10**9
MAX_WORKERS = 1024
MAX_LEARNING_RATE = 10


class Call:
    """The kind of a field that holds a function or class and its arguments, `_target_` and more."""


_NAMES = {
    Call: ("a call (a group of fields with _target_)", "calls"),
    bool: ("true or false", "booleans"),
    float: ("a number", "numbers"),
    int: ("an integer", "integers"),
    str: ("a string", "strings"),
    NoneType: ("none", ""),
}


@dataclass(frozen=True)
class Field:
    """Type, range and meaning of a field.

    Attributes:
        kind: type of the value, such as `int`, `list[str]` or `int | None`; an integer is a valid
            float. Numbers have to be finite.
        meaning: for the documentation.
        least, above, most, below: bounds of a number, or of each number of a list.
        choices: allowed strings, alone or in a list; empty allows any.
        pattern: regular expression of further strings that are allowed.
        length: of a list; 0 allows any.
        is_path: a leading '~' stands for the home directory.
    """

    kind: Any
    meaning: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    length: int = 0
    is_path: bool = False

    @property
    def holds_call(self) -> bool:
        """Whether the value is a group of fields, or has some."""
        return Call in (self.kind, *get_args(self.kind))

    def __str__(self) -> str:
        """The allowed values in words."""
        if get_origin(self.kind) is UnionType:
            return ", or ".join(str(replace(self, kind=kind)) for kind in get_args(self.kind))
        words = _in_words(self.kind, self.choices, self.length)
        if words in (_NAMES[NoneType][0], _NAMES[bool][0]):
            return words
        if self.least is not None and self.most is not None:
            return f"{words} from {self.least:.16g} to {self.most:.16g}"
        bounds = {"at least": self.least, "above": self.above}
        bounds |= {"at most": self.most, "below": self.below}
        limits = " and ".join(
            f"{word} {bound:.16g}" for word, bound in bounds.items() if bound is not None
        )
        return f"{words} {'of ' if limits.startswith('at ') else ''}{limits}".rstrip()

    def allows(self, value: Any) -> bool:
        """Whether the field can have this value."""
        if not _is_of_kind(value, self.kind):
            return False
        if not isinstance(value, list):
            return self._is_in_range(value)
        return len(value) == (self.length or len(value)) and all(map(self._is_in_range, value))

    def _is_in_range(self, item: Any) -> bool:
        if isinstance(item, str):
            is_other = self.pattern and re.fullmatch(self.pattern, item)
            return not self.choices or item in self.choices or bool(is_other)
        if isinstance(item, bool) or not isinstance(item, (int, float)):
            return True
        return (
            (self.least is None or item >= self.least)
            and (self.above is None or item > self.above)
            and (self.most is None or item <= self.most)
            and (self.below is None or item < self.below)
        )


def _is_of_kind(value: Any, kind: Any) -> bool:
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        return isinstance(value, list) and all(_is_of_kind(item, inner) for item in value)
    if get_args(kind):  # a union
        return any(_is_of_kind(value, one) for one in get_args(kind))
    if kind in (int, float):
        # True is a number to Python.
        kinds = (int, float) if kind is float else int
        return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if kind is Call:
        if isinstance(value, dict):
            return "_target_" in value
        # Or what a call has returned already.
        return not isinstance(value, (NoneType, bool, int, float, str, list))
    return isinstance(value, kind)


def _in_words(kind: Any, choices: tuple[str, ...], length: int) -> str:
    quoted = [f"'{choice}'" for choice in choices]
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        items = " and ".join(quoted) or (_NAMES[inner][1] if inner in _NAMES else "lists")
        return f"a list of {length} {items}" if length else f"a list of {items}"
    if kind is str and quoted:
        return f"{', '.join(quoted[:-1])} or {quoted[-1]}"
    return _NAMES[kind][0]


def _option(default: Any, meaning: str, **limits: Any) -> Any:
    """A field of a dataclass below, with its default; its annotation is its kind."""
    metadata = {"meaning": meaning, **limits}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Amp:
    """Mixed precision."""

    enabled: bool = _option(True, "mixed precision where the device gains from it")
    dtype: str = _option(
        "auto",
        "`auto` is bf16 where the GPU supports it, else fp16; on the CPU only bf16, and only on "
        "request",
        choices=("auto", "bf16", "fp16"),
    )


@dataclass
class EMA:
    """Exponential moving average of the weights."""

    enabled: bool = _option(False, "keeps an EMA of the weights and evaluates it as well")
    decay: float = _option(
        0.9998, "averages over about 1 / (1 − decay) iterations", least=0, below=1
    )
    warmup: int = _option(2000, "iterations until the decay reaches its value", least=0)


@dataclass
class DDP:
    """Arguments of PyTorch's DistributedDataParallel."""

    broadcast_buffers: bool = _option(False, "as in PyTorch's `DistributedDataParallel`")
    find_unused_parameters: bool = _option(False, "as in PyTorch's `DistributedDataParallel`")
    fp16_compression: bool = _option(False, "sends gradients in half precision")


@dataclass
class Checkpointing:
    """When and how checkpoints are written, and how many are kept."""

    period: int = _option(5000, "iterations between checkpoints", least=1)
    keep_last: int = _option(3, "numbered checkpoints to keep", least=1)
    sharded: bool = _option(
        False, "each rank writes its shards, for models too large for the memory of one machine"
    )


@dataclass
class Train:
    """The entry `train`."""

    output_dir: str = _option("./output", "directory for everything a run writes", is_path=True)
    init_checkpoint: str = _option(
        "",
        "initial weights: a path, a URL or the name of a published model; `''` starts from scratch",
        is_path=True,
    )
    reset_head: bool = _option(
        False, "loads all weights except the layers whose shape depends on the classes"
    )
    device: str = _option(
        "", "`''` uses CUDA if available",
        choices=("", "cpu", "cuda", "cuda:1"), pattern=r"(cpu|cuda):\d+",
    )  # fmt: skip
    seed: int = _option(
        -1, "seed of all randomness; a negative one differs in each run", most=MAX_SEED
    )
    max_iter: int = _option(
        0, "optimizer steps; a training needs at least 1", least=0, most=MAX_ITERATIONS
    )
    amp: Amp = field(default_factory=Amp)
    compile: bool = _option(False, "compiles the backbone, once per image size")
    max_grad_norm: float = _option(0.0, "clips the norm of the gradient; 0 disables", least=0)
    grad_accum_steps: int = _option(1, "micro-batches per optimizer step on each rank", least=1)
    ema: EMA = field(default_factory=EMA)
    best_metric: str = _option(
        "bbox/AP", "the weights with its highest value are kept as `model_best.pth`; `''` disables"
    )
    early_stopping: int = _option(
        0,
        "ends the training after so many evaluations in a row without a new best value of "
        "`train.best_metric`; 0 disables",
        least=0,
    )
    max_nonfinite_steps: int = _option(
        10, "consecutive steps with an infinite or NaN loss or gradient that are skipped", least=0
    )
    strategy: str = _option(
        "ddp", "replicates the model on each rank, or shards it across ranks", choices=STRATEGIES
    )
    ddp: DDP = field(default_factory=DDP)
    checkpointer: Checkpointing = field(default_factory=Checkpointing)
    eval_period: int = _option(
        5000, "iterations between evaluations; 0 evaluates only at the end", least=0
    )
    validation_loss: bool = _option(
        False, "evaluations also compute the losses on the test dataset (detectors)"
    )
    loggers: list[str] = _option(
        ["tensorboard"], "where metrics go beside `metrics.json`: `tensorboard`, `wandb`, `mlflow`"
    )
    log_period: int = _option(
        20, "iterations between lines of the log and of `metrics.json`", least=1
    )
    visualized_images: int = _option(
        12, "images in the grid of predictions; 0 disables it", least=0
    )


@dataclass
class Data:
    """The entry `data`: a custom dataset of a detector (JSON) or of a classifier (folders)."""

    train_json: str = _option(
        "",
        "annotations to train on, in COCO's format; `''` uses the dataset registered in "
        "`dataloader.train`",
        is_path=True,
    )
    train_images: str = _option("", "directory of the training images", is_path=True)
    val_json: str = _option("", "annotations to evaluate on", is_path=True)
    val_images: str = _option("", "directory of the images to evaluate on", is_path=True)
    train_folder: str = _option(
        "",
        "directory with a directory of training images or videos per class (classifiers); for "
        "videos also a file as Kinetics' CSV or Something-Something's JSON",
        is_path=True,
    )
    val_folder: str = _option("", "the same for evaluation", is_path=True)
    class_names: list[str] = _option([], "a name per class; empty uses those of the dataset")
    category_ids: list[int] = _option(
        [], "the dataset's category id per class; empty uses those of the dataset"
    )
    on_bad_image: str = _option(
        "raise", "aborts at a corrupt image or annotation, or skips the image",
        choices=BAD_IMAGE_POLICIES,
    )  # fmt: skip


@dataclass
class TTA:
    """Test-time augmentation."""

    short_sides: list[int] = _option(
        [], "sizes of the shorter side in pixels, one view each; empty disables it", least=1
    )
    max_size: int = _option(TTASettings.max_size, "maximum of the longer side", least=1)
    flip: bool = _option(TTASettings.flip, "adds each view flipped from left to right")


@dataclass
class Slices:
    """Sliced inference."""

    tile_size: int = _option(0, "side of the square tiles in pixels; 0 disables them", least=0)
    overlap: float = _option(
        SliceSettings.overlap, "overlap of neighbouring tiles as a share of a tile",
        least=0, below=1,
    )  # fmt: skip
    full_image: bool = _option(
        SliceSettings.full_image, "also looks at the whole image, for objects larger than a tile"
    )
    max_detections: int = _option(
        SliceSettings.max_detections, "maximum predictions per image", least=1
    )


@dataclass
class Merge:
    """How the detections of several views or tiles are merged."""

    method: str = _option(
        MergeSettings.method, "NMS, linear or Gaussian soft-NMS, or weighted boxes fusion",
        choices=MERGE_METHODS,
    )  # fmt: skip
    iou_threshold: float = _option(
        MergeSettings.iou_threshold, "IoU of detections of the same object", above=0, most=1
    )
    sigma: float = _option(MergeSettings.sigma, "of Gaussian soft-NMS", above=0)


@dataclass
class Inference:
    """The entry `inference`: several views of each image, in evaluation and prediction."""

    tta: TTA = field(default_factory=TTA)
    slices: Slices = field(default_factory=Slices)
    merge: Merge = field(default_factory=Merge)


ENTRIES: Mapping[str, type] = MappingProxyType(
    {"train": Train, "data": Data, "inference": Inference}
)


# The entries, or fields of entries, that are calls.
CALLS = (
    "model",
    "dataloader.train",
    "dataloader.test",
    "dataloader.evaluator",
    "optimizer",
    "lr_multiplier",
)


def fields_of(group: type) -> dict[str, Any]:
    """The fields of a dataclass: a `Field`, or the dataclass of a group of fields, by name."""
    kinds = get_type_hints(group)
    return {
        each.name: kinds[each.name]
        if is_dataclass(kinds[each.name])
        else Field(kinds[each.name], **each.metadata)
        for each in fields(group)
    }


# Arguments of what configs call, by the name of the function or class. Subclasses share them.
ARGUMENTS: Mapping[str, Mapping[str, Field]] = {
    "load_records": {
        "names": Field(str | list[str], "registered dataset, or several to train on"),
    },
    "load_image_folder": {"names": Field(str, "registered dataset")},
    "load_clips": {"names": Field(str, "registered dataset")},
    "TrainingLoader": {
        "dataset": Field(Call, "loads the records of the images"),
        "mapper": Field(Call, "makes the model's inputs of a record"),
        "total_batch_size": Field(
            int, "images per optimizer step, over all ranks and micro-batches", least=1
        ),
        "num_workers": Field(
            int, "DataLoader workers of each rank", least=0, most=MAX_WORKERS
        ),
        "repeat_threshold": Field(
            float, "oversamples images with a class that is on a smaller share of them", least=0
        ),
    },
    "EvaluationLoader": {
        "dataset": Field(Call, "loads the records of the images"),
        "mapper": Field(Call, "makes the model's inputs of a record"),
        "batch_size": Field(int, "images per batch on each rank", least=1),
        "num_workers": Field(
            int, "DataLoader workers of each rank", least=0, most=MAX_WORKERS
        ),
    },
    "DatasetMapper": {
        "augmentations": Field(list[Call], "Detectron2's, in this order; `[]` for none"),
        "image_format": Field(str, "channel order, also in evaluation", choices=("RGB", "BGR")),
        "use_instance_mask": Field(bool, "loads masks; false for models without a mask head"),
        "recompute_boxes": Field(bool, "computes boxes from the cropped masks"),
    },
    "ResizeShortestEdge": {
        "short_edge_length": Field(
            int | list[int], "of the resized images in pixels; of several, one is drawn", least=1
        ),
    },
    "COCOEvaluator": {
        "dataset_name": Field(str | list[str], "registered dataset"),
        "tasks": Field(
            list[str] | None, "metrics to compute; none is all that the model predicts",
            choices=("bbox", "segm"),
        ),
        "max_dets_per_image": Field(
            int, "highest-scoring predictions per image and class that count", least=1
        ),
    },
    "AdamW": {
        "params": Field(Call, "the groups of parameters"),
        "lr": Field(
            float, "learning rate of the heads after warm-up", above=0, most=MAX_LEARNING_RATE
        ),
        "betas": Field(list[float], "AdamW's betas", least=0, below=1, length=2),
        "weight_decay": Field(
            float, "of all parameters but norms, biases and position embeddings", least=0
        ),
        "fused": Field(bool | None, "updates all parameters in few kernels"),
    },
    "parameter_groups": {
        "layer_decay": Field(
            float, "learning rate of a backbone block relative to that of the next",
            above=0, most=1,
        ),
    },
    "WarmupParamScheduler": {
        "scheduler": Field(Call, "multiples of the learning rate after the warm-up"),
        "warmup_length": Field(float, "share of the training with linear warm-up", least=0, most=1),
        "warmup_factor": Field(float, "multiple of the learning rate to start from", least=0),
    },
    "CosineParamScheduler": {
        "start_value": Field(float, "first multiple of the learning rate", least=0),
        "end_value": Field(float, "last multiple of the learning rate", least=0),
    },
    "MultiStepParamScheduler": {
        "values": Field(list[float], "successive multiples of the learning rate", least=0),
        "milestones": Field(
            list[int], "iterations, of `num_updates`, at which the next value begins", least=0
        ),
        "num_updates": Field(
            int | None, "iterations of the training; only the ratio to the milestones counts",
            least=1,
        ),
    },
    # Backbones and classifiers.
    "MultiScaleTransformer": {
        "depths": Field(list[int], "blocks per stage", least=1),
        "embed_dim": Field(int, "channels of the first stage; further ones double them", least=1),
        "num_heads": Field(int, "heads of the first stage; further ones double them", least=1),
        "drop_path_rate": Field(float, "stochastic depth of the last block", least=0, below=1),
        "expand_attn": Field(
            bool, "widens in attention; false, in the MLP, fits MViTv2-L of ImageNet-1K"
        ),
        "use_checkpoint": Field(
            bool | list[str], "activation checkpointing, of all or of the named stages: less "
            "memory, more time",
        ),
        "freeze_at": Field(
            int, "freezes the patch embedding (1) and further stages (2 and above)", least=0
        ),
    },
    "MViTv2": {
        "attention": Field(
            str, "`hwin` is global in the last block of a stage, and in windows elsewhere",
            choices=ATTENTIONS,
        ),
        "window_size": Field(int, "side of the first stage's windows in tokens", least=1),
        "mask_padding": Field(bool, "excludes padding from attention and pooling"),
        "pretrain_img_size": Field(
            int, "side of the pre-training images; sizes the position tables", least=1
        ),
    },
    "ImageClassifier": {
        "num_classes": Field(int, "classes; the only place where their number is set", least=1),
        "mixup": Field(float, "alpha of mixup's Beta distribution; 0 disables it", least=0),
        "cutmix": Field(float, "alpha of CutMix's Beta distribution; 0 disables it", least=0),
        "random_erasing": Field(
            float, "probability of erasing a rectangle of an image", least=0, most=1
        ),
        "label_smoothing": Field(
            float, "share of the target that is spread over all classes", least=0, below=1
        ),
    },
    "FPN": {
        "out_channels": Field(int, "channels of the feature pyramid", least=1),
    },
    "RPN": {
        "pre_nms_topk": Field(
            list[int], "proposals per level before NMS, in training and in inference", least=1,
            length=2,
        ),
        "post_nms_topk": Field(
            list[int], "proposals per image after NMS, in training and in inference", least=1,
            length=2,
        ),
    },
    "DefaultAnchorGenerator": {
        "sizes": Field(list[list[float]], "sides of the anchors of each level in pixels"),
    },
    "ROIHeads": {
        "num_classes": Field(int, "classes; the only place where their number is set", least=1),
        "batch_size_per_image": Field(int, "regions per image that the loss samples", least=1),
        "positive_fraction": Field(float, "largest share of objects in them", least=0, most=1),
    },
    "FastRCNNOutputLayers": {
        "test_score_thresh": Field(
            float, "score threshold of predictions (a cascade has `box_predictors.0` to `.2`)",
            least=0, most=1,
        ),
        "test_nms_thresh": Field(float, "IoU threshold of NMS", least=0, most=1),
        "test_topk_per_image": Field(int, "maximum predictions per image", least=1),
        "test_nms_method": Field(
            str, "soft-NMS unless `hard`; needs a score threshold near 0", choices=METHODS
        ),
        "test_nms_sigma": Field(float, "of Gaussian soft-NMS", above=0),
    },
    "RetinaNet": {
        "num_classes": Field(int, "classes", least=1),
        "test_nms_method": Field(str, "soft-NMS unless `hard`", choices=METHODS),
        "test_nms_sigma": Field(float, "of Gaussian soft-NMS", above=0),
    },
    "SemSegFPNHead": {"num_classes": Field(int, "classes of semantic maps", least=1)},
    "GeneralizedRCNN": {
        "pixel_mean": Field(
            list[float], "subtracted from pixels in 0 to 255, in the channel order of the images"
        ),
        "pixel_std": Field(list[float], "divisor of pixels afterwards", above=0),
    },
}  # fmt: skip

# Arguments of these names mean the same in every call.
COMMON_ARGUMENTS: Mapping[str, Field] = MappingProxyType(
    {"num_classes": Field(int, "classes", least=1)}
)


def arguments_of_call(target: Any) -> dict[str, Field]:
    """The fields in `ARGUMENTS` of a function or class, including the parents of a class."""
    described: dict[str, Field] = {}
    for part in getattr(target, "__mro__", (target,)):
        described = {**ARGUMENTS.get(getattr(part, "__name__", ""), {}), **described}
    return described


# Former names, which still work in this release, with a message.
RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "train.fresh_head": "train.reset_head",
        "train.clip_gradient_norm": "train.max_grad_norm",
        "train.accumulate": "train.grad_accum_steps",
        "train.nonfinite_limit": "train.max_nonfinite_steps",
        "train.parallel": "train.strategy",
        "train.sheet_images": "train.visualized_images",
        "--accumulate": "--grad-accum-steps",
    }
)
