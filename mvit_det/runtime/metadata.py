"""Metadata of an exported file: one JSON string under the key `mvit_det`."""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import ExportError

KEY = "mvit_det"
TASKS = ("detection", "features", "classification", "video_classification")


@dataclass(frozen=True)
class Metadata:
    """How to use an exported model, and where it comes from.

    Attributes:
        task: one of `TASKS`.
        size: height and width of the canvas that the model takes, in pixels.
        channel_order: "RGB" or "BGR", of the canvas.
        resize: how images get onto the canvas. "fit" resizes them bilinearly with the aspect ratio
            kept, to the upper left corner; "crop" resizes their shorter side bicubically to
            `short_edge` and takes the centre; "stretch" resizes them bicubically to the canvas.
            Frames of videos are resized bilinearly to `short_edge`, for `crops` squares.
        short_edge: images are resized to this shorter side, in pixels, before they are fitted
            into the canvas; 0 keeps their size.
        max_size: bound of the longer side; 0 is none.
        num_frames: frames of a clip; 0 for images.
        frame_step: distance of the frames of a clip at `frame_rate`; 0 takes one frame from each
            of equal segments of a video.
        frame_rate: frames per second that `frame_step` counts in.
        crops: squares of each clip, 1 or 3.
        class_names: one for each class.
        category_ids: of each class in the dataset of the training, for COCO's results.
        score_threshold: detections have higher scores, in [0, 1].
        nms_threshold: IoU above which NMS suppresses, in [0, 1].
        max_detections: upper bound of detections in an image.
        has_masks: whether detections have masks.
        pixel_mean, pixel_std: the normalisation that is a part of the model, by channel.
        config: name or path of the config.
        checkpoint: name of the file with the weights.
        checkpoint_sha256: its SHA-256, in hexadecimal.
        precision: "fp32" or "int8".
        versions: of the libraries that wrote the file.
    """

    task: str
    size: tuple[int, int]
    channel_order: str = "RGB"
    resize: str = "fit"
    short_edge: int = 0
    max_size: int = 0
    num_frames: int = 0
    frame_step: float = 0.0
    frame_rate: float = 30.0
    crops: int = 1
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    score_threshold: float = 0.0
    nms_threshold: float = 0.0
    max_detections: int = 0
    has_masks: bool = False
    pixel_mean: tuple[float, ...] = ()
    pixel_std: tuple[float, ...] = ()
    config: str = ""
    checkpoint: str = ""
    checkpoint_sha256: str = ""
    precision: str = "fp32"
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text that a file holds."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None, path: str) -> "Metadata":
        """Reads the text of a file.

        Args:
            text: the JSON; None where the file has no such entry.
            path: of the file, for errors.

        Raises:
            ExportError: the file was not written by `tools/export.py`, or by a later version.
        """
        try:
            values: dict[str, Any] = json.loads(text or "")
            known = {each.name for each in fields(cls)}
            values = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()
                if name in known
            }
            metadata = cls(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise ExportError(
                f"'{path}' has no metadata of mvit_det; export the model with tools/export.py"
            ) from error
        if metadata.task not in TASKS:
            raise ExportError(
                f"'{path}' is for the task '{metadata.task}', but this version knows "
                f"{', '.join(TASKS)}; update mvit_det"
            )
        return metadata
