"""Models as functions of tensors, which exporters can trace.

They use the layers of Detectron2's modules and compute the same, without `Instances` and without
steps that depend on values in Python. Only the numbers of boxes vary, everything else has the size
of the canvas.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from .nms import grouped_nms

# Marks boxes that do not take part in NMS; logits are far above.
NO_SCORE = -1e9


class NormalizedGraph(nn.Module):
    """A model with the normalisation of its images."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, pixel_mean: Tensor, pixel_std: Tensor) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", pixel_mean.detach().clone())
        self.register_buffer("pixel_std", pixel_std.detach().clone())


class FeatureGraph(NormalizedGraph):
    """A backbone."""

    def __init__(self, backbone: nn.Module, pixel_mean: Tensor, pixel_std: Tensor) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone = backbone

    def forward(self, image: Tensor, image_size: Tensor) -> dict[str, Tensor]:
        """Computes feature maps.

        Args:
            image: the canvas, (1, 3, H, W) uint8.
            image_size: height and width of the image on it, (2,) int64; all beyond becomes zero,
                as Detectron2 pads.

        Returns:
            By name (1, channels, H / stride, W / stride).
        """
        rows = torch.arange(image.shape[2])[:, None] < image_size[0]
        columns = torch.arange(image.shape[3])[None] < image_size[1]
        normalized = (image.float() - self.pixel_mean) / self.pixel_std
        features: dict[str, Tensor] = self.backbone(normalized * (rows & columns))
        return features


class ClassifierGraph(NormalizedGraph):
    """A classifier of images or clips."""

    def __init__(self, classifier: nn.Module, pixel_mean: Tensor, pixel_std: Tensor) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.classifier = classifier

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Computes `scores`, (N, classes) that sum to 1.

        Args:
            image: (N, 3, S, S) or (N, 3, T, S, S) uint8.
        """
        logits = self.classifier((image.float() - self.pixel_mean) / self.pixel_std)
        return {"scores": logits.float().softmax(dim=1)}


class DetectorGraph(FeatureGraph):
    """The common part of all detectors.

    `forward` returns `boxes` (N, 4) in pixels of the canvas, `scores` (N,), `classes` (N,) int64
    and, of a model with masks, `masks` (N, M, M) in [0, 1]; best first.
    """

    def __init__(self, model: Any, anchor_generator: nn.Module, size: tuple[int, int]) -> None:
        super().__init__(model.backbone, model.pixel_mean, model.pixel_std)
        strides: Any = anchor_generator.strides
        maps = [torch.zeros(1, 1, -(-size[0] // s), -(-size[1] // s)) for s in strides]
        for level, anchors in enumerate(anchor_generator(maps)):
            self.register_buffer(f"anchors{level}", anchors.tensor.clone())

    def _anchors(self, level: int) -> Tensor:
        return self.get_buffer(f"anchors{level}")


class RCNNGraph(DetectorGraph):
    """Faster, Mask and Cascade R-CNN."""

    def __init__(self, model: Any, size: tuple[int, int]) -> None:
        super().__init__(model, model.proposal_generator.anchor_generator, size)
        self.rpn = model.proposal_generator
        self.heads = model.roi_heads

    def forward(self, image: Tensor, image_size: Tensor) -> dict[str, Tensor]:
        """Detects; see `DetectorGraph`."""
        features = super().forward(image, image_size)
        proposals = self._proposals(features, image_size)
        found = self._detect(features, proposals, image_size)
        if self.heads.mask_on:
            found["masks"] = self._masks(features, found["boxes"], found["classes"])
        return found

    def _proposals(self, features: dict[str, Tensor], image_size: Tensor) -> Tensor:
        """The best boxes of the RPN, (R, 4)."""
        rpn = self.rpn
        logits, deltas = rpn.rpn_head([features[name] for name in rpn.in_features])
        most = max(min(rpn.pre_nms_topk[False], each[0].numel()) for each in logits)
        boxes, scores = [], []
        for number, (logit, delta) in enumerate(zip(logits, deltas, strict=True)):
            # (1, A, H, W) -> (H · W · A), and (1, 4 · A, H, W) -> (H · W · A, 4)
            logit = logit.permute(0, 2, 3, 1).flatten()
            delta = delta.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).reshape(-1, 4)
            score, index = logit.topk(min(rpn.pre_nms_topk[False], logit.numel()))
            box = rpn.box2box_transform.apply_deltas(delta[index], self._anchors(number)[index])
            box = clip(box, image_size)
            large = (box[:, 2:] - box[:, :2] > rpn.min_box_size).all(dim=1)
            missing = most - len(box)
            boxes.append(F.pad(box, (0, 0, 0, missing)))
            scores.append(F.pad(torch.where(large, score, NO_SCORE), (0, missing), value=NO_SCORE))
        of_level, of_score = torch.stack(boxes), torch.stack(scores)
        level, index = grouped_nms(of_level, of_score, rpn.nms_thresh, NO_SCORE / 2)
        order = best(of_score[level, index], rpn.post_nms_topk[False])
        return of_level[level[order], index[order]]

    def _detect(
        self, features: dict[str, Tensor], proposals: Tensor, image_size: Tensor
    ) -> dict[str, Tensor]:
        """Boxes, scores and classes from one box head, or from a cascade of them."""
        heads = self.heads
        maps = [features[name] for name in heads.box_in_features]
        is_cascade = isinstance(heads.box_predictor, nn.ModuleList)
        stages = (
            list(zip(heads.box_head, heads.box_predictor, strict=True))
            if is_cascade
            else [(heads.box_head, heads.box_predictor)]
        )
        boxes, scores = proposals, []
        for stage, (head, predictor) in enumerate(stages):
            if stage:
                boxes = clip(boxes, image_size)
            logits, deltas = predictor(head(pool(heads.box_pooler, maps, boxes)))
            logits = logits.sigmoid() if predictor.use_sigmoid_ce else logits.softmax(dim=1)
            scores.append(logits)
            boxes = predictor.box2box_transform.apply_deltas(deltas, boxes)
        # The last column is the background.
        of_class = (torch.stack(scores).mean(dim=0) if is_cascade else scores[0])[:, :-1].t()
        # (R, K · 4) or, for all classes alike, (R, 4) -> (K or 1, R, 4)
        boxes = clip(boxes.unflatten(1, (-1, 4)).transpose(0, 1), image_size)
        classes, index = grouped_nms(
            boxes, of_class, predictor.test_nms_thresh, predictor.test_score_thresh
        )
        order = best(of_class[classes, index], predictor.test_topk_per_image)
        classes, index = classes[order], index[order]
        chosen = boxes[0, index] if len(boxes) == 1 else boxes[classes, index]
        return {"boxes": chosen, "scores": of_class[classes, index], "classes": classes}

    def _masks(self, features: dict[str, Tensor], boxes: Tensor, classes: Tensor) -> Tensor:
        """The mask of each box, (N, M, M) in [0, 1]."""
        maps = [features[name] for name in self.heads.mask_in_features]
        logits = self.heads.mask_head.layers(pool(self.heads.mask_pooler, maps, boxes))
        if logits.shape[1] > 1:
            index = classes[:, None, None, None].expand(-1, 1, *logits.shape[2:])
            logits = logits.gather(1, index)
        return logits[:, 0].sigmoid()


class RetinaNetGraph(DetectorGraph):
    """RetinaNet."""

    def __init__(self, model: Any, size: tuple[int, int]) -> None:
        super().__init__(model, model.anchor_generator, size)
        self.head = model.head
        self.box2box_transform = model.box2box_transform
        self.in_features = tuple(model.head_in_features)
        self.num_classes: int = model.num_classes
        self.score_threshold: float = model.test_score_thresh
        self.nms_threshold: float = model.test_nms_thresh
        self.topk_candidates: int = model.test_topk_candidates
        self.max_detections: int = model.max_detections_per_image

    def forward(self, image: Tensor, image_size: Tensor) -> dict[str, Tensor]:
        """Detects; see `DetectorGraph`."""
        features = super().forward(image, image_size)
        logits, deltas = self.head([features[name] for name in self.in_features])
        found = [
            self._decode(level, logit, delta)
            for level, (logit, delta) in enumerate(zip(logits, deltas, strict=True))
        ]
        boxes, scores, classes = (torch.cat(values) for values in zip(*found, strict=True))
        # Of each candidate the score of its class, (K, candidates), so that NMS goes by class.
        is_class = torch.arange(self.num_classes)[:, None] == classes
        kept_class, index = grouped_nms(
            boxes[None], scores * is_class, self.nms_threshold, max(self.score_threshold, 0.0)
        )
        order = best(scores[index], self.max_detections)
        index = index[order]
        # As Detectron2, which does not clip them before they are scaled to the image.
        return {"boxes": boxes[index], "scores": scores[index], "classes": kept_class[order]}

    def _decode(self, level: int, logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of anchor and class of a level: boxes, scores and classes."""
        # (1, A · K, H, W) -> (H · W · A, K)
        of_class = logits.unflatten(1, (-1, self.num_classes)).permute(0, 3, 4, 1, 2)
        of_class = of_class.reshape(-1, self.num_classes).sigmoid()
        deltas = deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).reshape(-1, 4)
        # The best pairs belong to the anchors with the best classes, of which there are fewer.
        anchors = of_class.amax(dim=1).topk(min(self.topk_candidates, len(of_class))).indices
        pairs = of_class[anchors].flatten()
        scores, pair = pairs.topk(min(self.topk_candidates, len(pairs)))
        anchor = anchors[pair // self.num_classes]
        boxes = self.box2box_transform.apply_deltas(deltas[anchor], self._anchors(level)[anchor])
        return boxes, scores, pair % self.num_classes


def clip(boxes: Tensor, image_size: Tensor) -> Tensor:
    """Moves corners of boxes (…, 4) that lie outside of the image to its border."""
    size = image_size.to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), torch.stack([size[1], size[0], size[1], size[0]]))


def best(scores: Tensor, count: int) -> Tensor:
    """Indexes of the highest scores (N,), best first, at most `count`."""
    return torch.sort(scores, descending=True).indices[:count]


def pool(pooler: Any, maps: list[Tensor], boxes: Tensor) -> Tensor:
    """Detectron2's `ROIPooler` for one image: (R, C, side, side)."""
    regions = F.pad(boxes, (1, 0))  # (image 0, x0, y0, x1, y1)

    def align(level: int, regions: Tensor) -> Tensor:
        layer = pooler.level_poolers[level]
        size, ratio = layer.output_size, layer.sampling_ratio
        pooled: Tensor = roi_align(
            maps[level], regions, size, layer.spatial_scale, ratio, layer.aligned
        )
        return pooled

    if len(maps) == 1:
        return align(0, regions)
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    levels = torch.floor(
        pooler.canonical_level + torch.log2(side / pooler.canonical_box_size + 1e-8)
    )
    levels = levels.clamp(pooler.min_level, pooler.max_level)
    pooled, order = [], []
    for level in range(len(maps)):
        index = (levels == pooler.min_level + level).nonzero()[:, 0]
        pooled.append(align(level, regions[index]))
        order.append(index)
    return torch.cat(pooled)[torch.sort(torch.cat(order)).indices]
