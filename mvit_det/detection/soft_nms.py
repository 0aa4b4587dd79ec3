"""Soft-NMS (Bodla et al., ICCV 2017): overlapping boxes lose score instead of being removed."""

import numpy as np
import torch
from torch import Tensor

METHODS = ("linear", "gaussian")


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    method: str = "linear",
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    score_threshold: float = 0.0,
    max_detections: int = -1,
) -> tuple[Tensor, Tensor]:
    """Selects boxes class by class, each lowering the scores of those that it overlaps.

    A box's score is final when it is the highest that is left of its class, and scores never rise.
    So the highest score of all classes is always final, and the `max_detections` best boxes take as
    many steps, however many candidates and classes there are.

    It runs in NumPy on the CPU, for many small steps that depend on each other.

    Args:
        boxes: (N, 4) x0, y0, x1, y1.
        scores: (N,) in [0, 1].
        classes: (N,) integers.
        method: "linear" multiplies a score by 1 − IoU from `iou_threshold` on (equation 2 of the
            paper), "gaussian" by exp(−IoU² / `sigma`) (equation 3).
        iou_threshold: of "linear".
        sigma: of "gaussian".
        score_threshold: boxes whose final score is not above it are dropped; at least 0.
        max_detections: how many boxes to select, best first; negative selects all.

    Returns:
        (M,) indexes of the selected boxes and (M,) their final scores, in descending order, both on
        the device of the inputs.
    """
    device = scores.device
    # Boxes of a class lie together, and each step looks at one class.
    order = torch.argsort(classes, stable=True).cpu().numpy()
    sorted_classes = classes.cpu().numpy()[order]
    x0, y0, x1, y1 = np.ascontiguousarray(boxes.float().cpu().numpy()[order].T)
    areas = (x1 - x0) * (y1 - y0)
    left = scores.float().cpu().numpy()[order].copy()
    starts = np.searchsorted(sorted_classes, sorted_classes, side="left")
    ends = np.searchsorted(sorted_classes, sorted_classes, side="right")

    selected: list[int] = []
    final: list[float] = []
    while len(selected) != max_detections and len(selected) < len(left):
        best = int(left.argmax())
        if not left[best] > score_threshold:
            break
        selected.append(best)
        final.append(left[best])
        same = slice(starts[best], ends[best])
        width = np.minimum(x1[same], x1[best]) - np.maximum(x0[same], x0[best])
        height = np.minimum(y1[same], y1[best]) - np.maximum(y0[same], y0[best])
        intersection = width.clip(min=0) * height.clip(min=0)
        # A box without area overlaps nothing.
        union = np.maximum(areas[same] + areas[best] - intersection, np.float32(1e-12))
        iou = intersection / union
        if method == "linear":
            left[same] *= np.where(iou >= iou_threshold, 1 - iou, np.float32(1))
        else:
            left[same] *= np.exp(-(iou**2) / np.float32(sigma))
        left[best] = -1
    indexes = torch.from_numpy(order[selected]) if selected else torch.zeros(0, dtype=torch.int64)
    return indexes.to(device), torch.tensor(np.array(final, np.float32), device=device)
