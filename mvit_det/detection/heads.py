"""Detectron2's box heads and RetinaNet, with soft-NMS as an alternative to NMS in inference.

Parameters and training are Detectron2's. So are all results with `test_nms_method="hard"`, the
default.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import roi_heads
from detectron2.modeling.meta_arch import retinanet
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..errors import ConfigError
from . import soft_nms

logger = logging.getLogger(__name__)

METHODS = ("hard", *soft_nms.METHODS)

# Soft-NMS keeps a box that overlaps a better one by lowering its score. A higher threshold would
# drop those boxes again: with 0.05, linear soft-NMS has cost more AP than it gains.
HIGHEST_SOFT_THRESHOLD = 0.01


class BoxPredictor(roi_heads.FastRCNNOutputLayers):
    """Detectron2's `FastRCNNOutputLayers` with a choice of NMS."""

    def __init__(
        self,
        input_shape: Any,
        *,
        test_nms_method: str = "hard",
        test_nms_sigma: float = 0.5,
        **arguments: Any,
    ) -> None:
        """Builds the layers.

        Args:
            input_shape: as Detectron2's.
            test_nms_method: "hard" removes boxes that overlap a better one of their class by more
                than `test_nms_thresh`; "linear" and "gaussian" are those of `soft_nms`, for which
                `test_nms_thresh` is the `iou_threshold` and `test_score_thresh` bounds the final
                scores.
            test_nms_sigma: of "gaussian".
            arguments: Detectron2's.

        Raises:
            ConfigError: an argument is out of its range.
        """
        super().__init__(input_shape, **arguments)
        self.test_nms_method = test_nms_method
        self.test_nms_sigma = test_nms_sigma
        _check_nms(test_nms_method, test_nms_sigma, self.test_score_thresh)

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """As Detectron2's: the instances of each image, and the proposals that they come from."""
        return self.select(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [proposal.image_size for proposal in proposals],
        )

    def select(
        self,
        boxes: Sequence[Tensor],
        scores: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> tuple[list[Instances], list[Tensor]]:
        """Selects the instances of each image.

        Args:
            boxes: of each image, (R, 4) or (R, K · 4) x0, y0, x1, y1.
            scores: of each image, (R, K + 1) in [0, 1]; the last column is the background.
            image_sizes: (height, width) of each image.

        Returns:
            For each image the instances, best first, and the rows in [0, R) that they come from.
        """
        if self.test_nms_method == "hard":
            return fast_rcnn_inference(
                boxes,
                scores,
                image_sizes,
                self.test_score_thresh,
                self.test_nms_thresh,
                self.test_topk_per_image,
            )
        selected = [self._select_softly(*image) for image in zip(boxes, scores, image_sizes)]
        return [instances for instances, _ in selected], [rows for _, rows in selected]

    def _select_softly(
        self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int]
    ) -> tuple[Instances, Tensor]:
        finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
        boxes, scores = boxes[finite], scores[finite, :-1]
        # A score that starts at or below the threshold ends there, and lowers none above it.
        rows, classes = (scores > self.test_score_thresh).nonzero().unbind(dim=1)
        candidates = Boxes(
            boxes.view(len(boxes), -1, 4)[rows, classes if boxes.shape[1] > 4 else 0]
        )
        candidates.clip(image_size)
        indexes, final = soft_nms.soft_nms(
            candidates.tensor,
            scores[rows, classes],
            classes,
            method=self.test_nms_method,
            iou_threshold=self.test_nms_thresh,
            sigma=self.test_nms_sigma,
            score_threshold=self.test_score_thresh,
            max_detections=self.test_topk_per_image,
        )
        instances = Instances(
            image_size,
            pred_boxes=candidates[indexes],
            scores=final,
            pred_classes=classes[indexes],
        )
        return instances, rows[indexes]


class CascadeROIHeads(roi_heads.CascadeROIHeads):
    """Detectron2's cascade, which selects boxes as its last box predictor says."""

    def __init__(self, **arguments: Any) -> None:
        """Takes Detectron2's arguments.

        Raises:
            ConfigError: another predictor than the last one has soft-NMS, and would not use it.
        """
        super().__init__(**arguments)
        *others, last = (_method_of(predictor) for predictor in self.box_predictor)
        for stage, method in enumerate(others):
            if method not in ("hard", last):
                raise ConfigError(
                    f"box_predictors.{stage}.test_nms_method is '{method}', but the cascade "
                    f"selects boxes with its last predictor: set box_predictors.{len(others)}."
                    f"test_nms_method={method}"
                )

    def _forward_box(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> Any:
        predictor = self.box_predictor[-1]
        if self.training or _method_of(predictor) == "hard":
            return super()._forward_box(features, proposals, targets)
        image_sizes = [proposal.image_size for proposal in proposals]
        maps = [features[name] for name in self.box_in_features]
        stage_scores: list[list[Tensor]] = []
        boxes: list[Tensor] = []
        for stage, stage_predictor in enumerate(self.box_predictor):
            if stage:
                proposals = self._create_proposals_from_boxes(boxes, image_sizes)
            predictions = self._run_stage(maps, proposals, stage)
            boxes = stage_predictor.predict_boxes(predictions, proposals)
            stage_scores.append(stage_predictor.predict_probs(predictions, proposals))
        scores = [sum(image) * (1.0 / len(image)) for image in zip(*stage_scores)]
        return predictor.select(boxes, scores, image_sizes)[0]


class RetinaNet(retinanet.RetinaNet):
    """Detectron2's RetinaNet with a choice of NMS."""

    def __init__(
        self, *, test_nms_method: str = "hard", test_nms_sigma: float = 0.5, **arguments: Any
    ) -> None:
        """Builds the detector.

        Args:
            test_nms_method, test_nms_sigma: as those of `BoxPredictor`.
            arguments: Detectron2's.

        Raises:
            ConfigError: an argument is out of its range.
        """
        super().__init__(**arguments)
        self.test_nms_method = test_nms_method
        self.test_nms_sigma = test_nms_sigma
        _check_nms(test_nms_method, test_nms_sigma, self.test_score_thresh)

    def inference_single_image(
        self,
        anchors: list[Boxes],
        box_cls: list[Tensor],
        box_delta: list[Tensor],
        image_size: tuple[int, int],
    ) -> Instances:
        """As Detectron2's."""
        if self.test_nms_method == "hard":
            return super().inference_single_image(anchors, box_cls, box_delta, image_size)
        found = self._decode_multi_level_predictions(
            anchors,
            box_cls,
            box_delta,
            self.test_score_thresh,
            self.test_topk_candidates,
            image_size,
        )
        indexes, final = soft_nms.soft_nms(
            found.pred_boxes.tensor,
            found.scores,
            found.pred_classes,
            method=self.test_nms_method,
            iou_threshold=self.test_nms_thresh,
            sigma=self.test_nms_sigma,
            score_threshold=self.test_score_thresh,
            max_detections=self.max_detections_per_image,
        )
        found = found[indexes]
        found.scores = final
        return found


def _method_of(predictor: torch.nn.Module) -> str:
    """Also of Detectron2's own, which configs of earlier trainings name."""
    return getattr(predictor, "test_nms_method", "hard")


def _check_nms(method: str, sigma: float, score_threshold: float) -> None:
    """Checks fields of a box head, and warns about a score threshold that is too high.

    Raises:
        ConfigError: a field is out of its range.
    """
    if method not in METHODS:
        raise ConfigError(f"test_nms_method must be one of {', '.join(METHODS)}, not '{method}'")
    if not sigma > 0:
        raise ConfigError(f"test_nms_sigma must be above 0, not {sigma}")
    if method != "hard" and score_threshold > HIGHEST_SOFT_THRESHOLD:
        logger.warning(
            "Soft-NMS lowers scores, and test_score_thresh=%g drops boxes whose lowered score is "
            "not above it, which costs AP: set test_score_thresh to 0, or at most %g",
            score_threshold,
            HIGHEST_SOFT_THRESHOLD,
        )
