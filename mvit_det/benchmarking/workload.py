"""A model of either side together with its input, ready to run the passes of a case."""

import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.modeling import GeneralizedRCNN, MViT
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torchvision.models.video import mvit as torchvision_mvit

from ..acceleration import accelerate
from ..checkpoint.formats import to_timm, to_torchvision, torchvision_shape
from ..config import load_config
from ..errors import ConfigError
from ..model_zoo import configs_folder
from ..modeling import (
    MViTv2,
    MViTv2Classifier,
    VideoMViT,
    mvitv2_b,
    mvitv2_h,
    mvitv2_l,
    mvitv2_s,
    mvitv2_t,
    video_mvitv2_b,
    video_mvitv2_l,
    video_mvitv2_s,
)
from ..modeling.video import PATCH_STRIDE
from .case import DTYPES, Case


def mvitv2_pico(**arguments: Any) -> Any:
    """Builds a model for tests, small and with blocks of every kind."""
    kind = MViTv2Classifier if "num_classes" in arguments else MViTv2
    return kind(depths=(1, 2, 3, 2), embed_dim=16, **arguments)


BUILDERS: dict[str, Callable[..., Any]] = dict(
    t=mvitv2_t, s=mvitv2_s, b=mvitv2_b, l=mvitv2_l, h=mvitv2_h, pico=mvitv2_pico
)
VIDEO_BUILDERS: dict[str, Callable[..., VideoMViT]] = dict(
    s=video_mvitv2_s,
    b=video_mvitv2_b,
    l=video_mvitv2_l,
    pico=partial(VideoMViT, depths=(1, 2, 3, 2), embed_dim=16),
)
NUM_CLASSES = 1000  # of classifiers
# About the mean number of objects of an image of COCO.
OBJECTS = 8


class Workload:
    """One side of a case.

    A training step is forward and backward pass, which leave gradients in the parameters, without
    optimizer: its cost is the same on both sides. fp16 runs without loss scaling. The candidate's
    detector runs as in trainings and predictors of this package, which accelerate it on the CPU.
    """

    def __init__(self, case: Case, side: str) -> None:
        self.case = case
        self.model = build(case, side).to(case.device)
        if case.detector and side == "candidate":
            accelerate(self.model)
        if case.compile:
            # The rest of a detector depends on its data.
            self.model.get_submodule("backbone.bottom_up" if case.detector else "").compile()
        torch.manual_seed(1)
        self.inputs: Any = (
            random_images(case.image_size, case.batch)
            if case.detector
            else torch.randn(case.input_shape, device=case.device)
        )
        self.labels = torch.randint(0, NUM_CLASSES, (case.batch,), device=case.device)
        self.autocast = torch.autocast(
            case.device,
            dtype=DTYPES[case.dtype] if case.dtype != "fp32" else torch.bfloat16,
            enabled=case.dtype != "fp32",
        )

    def run(self, name: str) -> None:
        """Runs one of `PASSES` to its end."""
        # A detector samples the same regions in every run, and on both sides.
        torch.manual_seed(2)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
            if name == "train":
                self._train()
            else:
                self._forward()
        if self.case.device == "cuda":
            torch.cuda.synchronize()

    def release(self) -> None:
        """Frees the gradients."""
        self.model.zero_grad(set_to_none=True)

    def features(self) -> dict[str, Tensor]:
        """Outputs of the backbone by name, or the logits of a classifier.

        Those of a detector include its feature pyramid.
        """
        self.model.eval()
        # On CUDA, TensorFloat-32 would hide how close the two sides are.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.no_grad(), self.autocast, exact:
            if isinstance(self.model, GeneralizedRCNN):
                images = self.model.preprocess_image(self.inputs)
                return self.model.backbone(images.tensor)
            outputs = self.model(self.inputs)
        return {"logits": outputs} if isinstance(outputs, Tensor) else outputs

    def _forward(self) -> None:
        self.model.eval()
        with torch.no_grad(), self.autocast:
            self.model(self.inputs)

    def _train(self) -> None:
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        with EventStorage(), self.autocast:
            outputs = self.model(self.inputs)
            if self.case.task != "detection":
                loss = F.cross_entropy(outputs.float(), self.labels)
            elif self.case.detector:
                loss = sum(outputs.values())
            else:
                # Reaches each element of the features.
                loss = sum(feature.float().square().mean() for feature in outputs.values())
        loss.backward()


def build(case: Case, side: str) -> nn.Module:
    """Builds one side on the CPU, with the weights of the other side, in either order.

    Weights are random, relative positions included, so that an error in any of them shows. There
    is no drop path, so that both sides compute the same in training as well.
    """
    options: dict[str, Any] = dict(drop_path_rate=0.0)
    if side == "candidate" and case.checkpoint:
        options["use_checkpoint"] = case.checkpoint == ("all",) or list(case.checkpoint)
    if side == "candidate" and case.mask_padding:
        options["mask_padding"] = True
    torch.manual_seed(0)
    is_upstream = side == "baseline" and case.baseline != "mvit_det"
    if case.task == "video":
        # The relative positions of these models always start at random.
        options.update(num_classes=NUM_CLASSES, frames=case.frames, img_size=case.image_size[0])
        video_model = VIDEO_BUILDERS[case.size](**options)
        return torchvision_of(video_model) if is_upstream else video_model
    options["rel_pos_std"] = 0.02
    if case.task == "classification":
        options.update(num_classes=NUM_CLASSES, pretrain_img_size=case.image_size[0])
        classifier = BUILDERS[case.size](**options)
        return timm_of(classifier) if is_upstream else classifier
    if not case.detector:
        backbone = BUILDERS[case.size](**options)
        return upstream_of(backbone) if is_upstream else backbone
    folder = "shapes" if case.size == "pico" else "COCO"
    config = load_config(configs_folder() / folder / f"mask_rcnn_mvitv2_{case.size}.py").model
    config.backbone.bottom_up.update(options)
    # Random weights give low scores. Without a threshold the mask head has its full load.
    config.roi_heads.box_predictor.test_score_thresh = 0.0
    detector = instantiate(config)
    if is_upstream:
        detector.backbone.bottom_up = upstream_of(detector.backbone.bottom_up)
    return detector


def upstream_of(model: MViTv2) -> MViT:
    """Builds Detectron2's MViT with the plan and the weights of a model.

    Raises:
        ConfigError: timm is missing, which Detectron2 imports there.
    """
    first = model.plan[0]
    arguments: dict[str, Any] = dict(
        # Only sizes the tables of relative positions.
        img_size=first.table_size * model.patch_embed.proj.stride[0],
        in_chans=model.in_chans,
        embed_dim=first.dim,
        depth=len(model.plan),
        num_heads=first.num_heads,
        last_block_indexes=tuple(i for i, block in enumerate(model.plan) if block.is_last),
        adaptive_kv_stride=first.key_stride,
        adaptive_window_size=first.window_size,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        out_features=model.out_features,
    )
    with warnings.catch_warnings():
        # Detectron2 imports its drop path from a deprecated module of timm.
        warnings.filterwarnings("ignore", "Importing from timm", FutureWarning)
        try:
            upstream = MViT(**arguments)
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            raise ConfigError(
                f"Detectron2's MViT needs {package}, which is not installed: run "
                f"'pip install {package}', or use '--checkpoint' or '--mask-padding', which "
                "compare mvit_det with itself"
            ) from error
    upstream.load_state_dict(model.state_dict(), strict=True)
    return upstream


def timm_of(model: MViTv2Classifier) -> nn.Module:
    """Builds timm's classifier with the plan and the weights of a model for square images.

    Raises:
        ConfigError: timm is missing.
    """
    try:
        from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg  # noqa: TID251
    except ModuleNotFoundError as error:
        raise ConfigError(
            "timm's MViTv2 needs timm, which is not installed: run 'pip install timm'"
        ) from error
    first = model.plan[0]
    depths = Counter(block.scale for block in model.plan)
    config = MultiScaleVitCfg(
        depths=tuple(depths.values()), embed_dim=first.dim, num_heads=first.num_heads
    )
    image_size = first.table_size * model.patch_embed.proj.stride[0]
    upstream = MultiScaleVit(config, image_size, num_classes=model.head.out_features)
    weights = model.state_dict()
    upstream.load_state_dict({new: weights[name] for name, new in to_timm(weights).items()})
    return upstream


def torchvision_of(model: VideoMViT) -> nn.Module:
    """Builds torchvision's MViTv2 with the plan and the weights of a model for clips."""
    settings = [
        torchvision_mvit.MSBlockConfig(
            num_heads=block.num_heads,
            input_channels=block.dim,
            output_channels=block.dim_out,
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=[1, block.query_stride, block.query_stride],
            stride_kv=[1, block.key_stride, block.key_stride],
        )
        for block in model.plan
    ]
    time, height, width = model.position_grid
    upstream = torchvision_mvit.MViT(
        spatial_size=(height * PATCH_STRIDE[1], width * PATCH_STRIDE[2]),
        temporal_size=time * PATCH_STRIDE[0],
        block_setting=settings,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        num_classes=model.head.out_features,
    )
    weights = model.state_dict()
    names = to_torchvision(weights)
    upstream.load_state_dict(
        {names[n]: weight.view(torchvision_shape(n, weight)) for n, weight in weights.items()}
    )
    return upstream


def random_images(
    size: tuple[int, int], count: int, objects: int = OBJECTS
) -> list[dict[str, Any]]:
    """Random images with octagons as objects, in the format of Detectron2's data loaders.

    Args:
        size: height and width in pixels.
        count: number of images.
        objects: of each image, all of class 0.
    """
    height, width = size
    angles = np.pi * (np.arange(8) + 0.5) / 4
    octagon = np.stack([np.cos(angles), np.sin(angles)], axis=1) / np.cos(np.pi / 8)
    images = []
    for _ in range(count):
        # From a sixteenth to half of each side, anywhere in the image.
        extent = torch.rand(objects, 2) * 7 / 16 + 1 / 16
        corner = torch.rand(objects, 2) * (1 - extent)
        boxes = torch.cat([corner, corner + extent], dim=1)
        boxes = boxes * torch.tensor([width, height, width, height])
        centres = (boxes[:, None, :2] + boxes[:, None, 2:]).numpy() / 2
        halves = (boxes[:, None, 2:] - boxes[:, None, :2]).numpy() / 2
        instances = Instances(size)
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.zeros(objects, dtype=torch.int64)
        instances.gt_masks = PolygonMasks(
            [[polygon.reshape(-1).astype(np.float64)] for polygon in centres + halves * octagon]
        )
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        # All background, for panoptic detectors.
        stuff = torch.zeros(size, dtype=torch.int64)
        images.append(
            dict(image=image, height=height, width=width, instances=instances, sem_seg=stuff)
        )
    return images
