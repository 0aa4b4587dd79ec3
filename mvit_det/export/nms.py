"""Non-maximum suppression of several groups of boxes at once: classes, or levels of a pyramid.

ONNX's NonMaxSuppression does that exactly, in one node. In PyTorch, torchvision's `nms` does it for
groups that are moved apart; float64 keeps their coordinates exact, which float32 would round.
"""

import importlib
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms


def grouped_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float
) -> tuple[Tensor, Tensor]:
    """Suppresses boxes that overlap a better one of their group.

    Args:
        boxes: (groups or 1, N, 4) x0, y0, x1, y1; with 1 all groups share the boxes.
        scores: (groups, N).
        iou_threshold: boxes that overlap more than this are suppressed, in [0, 1].
        score_threshold: boxes need a higher score.

    Returns:
        Group and index in [0, N) of each box that is kept, two (M,) int64, in any order.
    """
    if torch.onnx.is_in_onnx_export():
        kept = torch.ops.mvit_det.grouped_nms(boxes, scores, iou_threshold, score_threshold)
    else:
        kept = _grouped_nms(boxes, scores, iou_threshold, score_threshold)
    return kept[:, 0], kept[:, 1]


def _grouped_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float
) -> Tensor:
    groups, indexes = (scores > score_threshold).nonzero().unbind(1)
    boxes = boxes.double()
    offsets = groups * (2 * boxes.abs().amax() + 1)
    candidates = boxes.expand(len(scores), -1, -1)[groups, indexes] + offsets[:, None]
    kept = nms(candidates, scores[groups, indexes].double(), iou_threshold)
    return torch.stack([groups[kept], indexes[kept]], dim=1)


@torch.library.custom_op("mvit_det::grouped_nms", mutates_args=())
def _operator(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float
) -> Tensor:
    return _grouped_nms(boxes, scores, iou_threshold, score_threshold)


@_operator.register_fake
def _(boxes: Tensor, scores: Tensor, *_: Any) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return scores.new_empty(kept, 2, dtype=torch.int64)


def onnx_translations() -> dict[Any, Any]:
    """How `torch.onnx.export` writes the operator: for its `custom_translation_table`."""
    # Its stubs know the types of tensors, which the translation does not.
    op: Any = importlib.import_module("onnxscript").opset18

    def translate(boxes: Any, scores: Any, iou_threshold: float, score_threshold: float) -> Any:
        shared = boxes.shape[0] == 1
        # ONNX: scores (batch, classes, N), boxes of each batch (batch, N, 4).
        scores = op.Unsqueeze(scores, op.Constant(value_ints=[0 if shared else 1]))
        selected = op.NonMaxSuppression(
            boxes,
            scores,
            op.Shape(boxes, start=1, end=2),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[score_threshold]),
        )
        return op.Gather(selected, op.Constant(value_ints=[1 if shared else 0, 2]), axis=1)

    return {torch.ops.mvit_det.grouped_nms.default: translate}
