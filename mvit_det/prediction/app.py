"""A page in the browser: a detector finds objects in the images and videos that are dropped on it.

The detector runs once per upload, at a low score threshold. The controls choose which of its
predictions are drawn and can be downloaded. Only this module needs Gradio.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio
import numpy as np
from PIL import Image

from ..data.images import read_image_size
from ..data.video_writer import VideoWriter
from ..data.videos import VIDEO_EXTENSIONS, VideoReader
from ..detection.masks import RLEMasks
from ..errors import ImageError, MViTDetError
from .prediction import Prediction
from .predictor import Predictor

# The detector's score threshold, where the page's begins.
LOWEST_THRESHOLD = 0.05
# An upload is forgotten after so many seconds, or when so many visitors have come after it.
KEPT_SECONDS, KEPT_VISITORS = 3600, 16
HINT = "Drop an image or a video above."
# Small images fill their place, too.
STYLE = "#image img { width: 100%; height: 100%; object-fit: contain; }"

# (frame number, number of frames or None) of a video, to show how far its prediction is.
Progress = Callable[[tuple[int, int | None]], Any]


@dataclass(frozen=True)
class Limits:
    """The largest uploads that the page accepts."""

    megabytes: int = 100
    megapixels: int = 25
    frames: int = 300

    def check_pixels(self, name: str, height: int, width: int) -> None:
        """Raises an ImageError if an image or a video's frame is too large."""
        if height * width > self.megapixels * 1e6:
            raise ImageError(
                f"'{name}' has {width} x {height} pixels, more than {self.megapixels} million; "
                "scale it down"
            )

    def check_frames(self, name: str, number: int) -> None:
        """Raises an ImageError if a video is too long."""
        if number > self.frames:
            raise ImageError(
                f"'{name}' has more than {self.frames} frames; cut it, or use 'mvit-det predict'"
            )


@dataclass(eq=False)
class Upload:
    """An image or a video, and the predictions for it.

    Attributes:
        path: of the file.
        predictions: one, or that of each frame without its image.
        is_video: whether it is a video.
        problem: why frames are missing, in a sentence; '' if none are.
        folders: with the files that can be downloaded; removed with this object.
    """

    path: Path
    predictions: Sequence[Prediction]
    is_video: bool = False
    problem: str = ""
    folders: list[tempfile.TemporaryDirectory[str]] = field(default_factory=list)

    def new_file(self, suffix: str) -> Path:
        """The path of a file to download, named after the upload, in a new folder.

        The URLs of files are their paths, and browsers do not ask for the same URL twice. The last
        two folders are kept: of the image that is shown, and of the one that replaces it.
        """
        self.folders = [*self.folders[-1:], tempfile.TemporaryDirectory(dir=self.path.parent)]
        return Path(self.folders[-1].name, f"{self.path.stem}{suffix}")

    def select(self, index: int, threshold: float, classes: Sequence[int]) -> Prediction:
        """The chosen instances of the image or a frame; no classes stand for all of them."""
        return self.predictions[index].select(threshold, classes or None)

    def frame(self, index: int) -> np.ndarray:
        """A frame, or the image, (H, W, 3) uint8 RGB."""
        if not self.is_video:
            return self.predictions[0].image
        with VideoReader(self.path) as reader:
            return next(reader.frames_at([index]))


def predict_upload(
    predictor: Predictor, path: Path, limits: Limits, progress: Progress = lambda done: None
) -> Upload:
    """Predicts the image, or all frames of the video.

    Raises:
        ImageError: the file cannot be read, or is larger than the limits.
    """
    if path.suffix.lower() not in VIDEO_EXTENSIONS:
        limits.check_pixels(path.name, *read_image_size(path))
        return Upload(path, [_compress(predictor(path))])
    predictions: list[Prediction] = []
    with VideoReader(path) as reader:
        limits.check_frames(path.name, reader.num_frames or 0)
        for frame in reader:
            limits.check_frames(path.name, reader.position)
            limits.check_pixels(path.name, *frame.shape[:2])
            prediction = _compress(predictor(frame))
            predictions.append(replace(prediction, image=frame[:0, :0], panoptic=None))
            progress((reader.position, reader.num_frames))
        if not predictions:
            raise ImageError(reader.problem())
        return Upload(path, predictions, is_video=True, problem=reader.problem())


def draw_upload(
    upload: Upload, threshold: float, classes: Sequence[int], show_masks: bool, index: int
) -> tuple[Path, Path, str]:
    """Draws the image, or a frame, and writes the chosen instances.

    Returns:
        The drawn PNG; a JSON file in COCO's result format, of all frames of a video; and a
        sentence with the number of instances of each class.
    """
    prediction = replace(upload.select(index, threshold, classes), image=upload.frame(index))
    drawn = upload.new_file(f"_frame_{index}.png" if upload.is_video else "_drawn.png")
    # Larger and much faster than Pillow's default.
    Image.fromarray(prediction.draw(show_masks)).save(drawn, compress_level=1)
    results = []
    for number in range(len(upload.predictions)):
        origin = {"file_name": upload.path.name, **({"frame": number} if upload.is_video else {})}
        chosen = upload.select(number, threshold, classes)
        results += [{**result, **origin} for result in chosen.to_coco(number + 1)]
    listed = drawn.with_name(f"{upload.path.stem}.json")
    listed.write_text(json.dumps(results), encoding="utf-8")
    return drawn, listed, _summarize(prediction) + (upload.problem and f"\n{upload.problem}")


def draw_video(upload: Upload, threshold: float, classes: Sequence[int], show_masks: bool) -> Path:
    """Draws the chosen instances on all frames; returns an MP4 file."""
    path = upload.new_file("_drawn.mp4")
    with VideoReader(upload.path) as reader, VideoWriter(path, reader.rate) as writer:
        for index, frame in zip(range(len(upload.predictions)), reader):
            prediction = replace(upload.select(index, threshold, classes), image=frame)
            writer.write(prediction.draw(show_masks))
    return path


def build_page(
    predictor: Predictor, title: str, *, threshold: float = 0.5, limits: Limits | None = None
) -> gradio.Blocks:
    """The page, to be started with `serve`.

    Args:
        predictor: with the score threshold `LOWEST_THRESHOLD`.
        title: of the page.
        threshold: at which the slider stands first.
        limits: of the uploads.
    """
    limits = limits or Limits()
    hidden = gradio.update(visible=False)

    def on_upload(
        name: str | None,
        threshold: float,
        classes: list[int],
        show_masks: bool,
        progress: gradio.Progress = gradio.Progress(),  # noqa: B008, how Gradio finds it
    ) -> tuple[Any, ...]:
        """The upload's predictions, and the page's outputs for them or for an error."""
        settings, problem = (threshold, classes, show_masks, 0), ""
        if name:
            try:
                upload = predict_upload(predictor, Path(name), limits, progress)
            except MViTDetError as error:
                problem = str(error).replace(name, Path(name).name)
            else:
                last = len(upload.predictions) - 1
                slider = gradio.update(visible=last > 0, maximum=max(last, 1), value=0)
                video = gradio.update(visible=upload.is_video)
                return upload, slider, video, *on_change(upload, *settings)
        return None, hidden, hidden, *on_change(None, *settings, problem)

    def on_change(
        upload: Upload | None,
        threshold: float,
        classes: list[int],
        show_masks: bool,
        index: int,
        problem: str = "",
    ) -> tuple[Any, ...]:
        """The drawn image, the downloads and the text for other settings."""
        if upload is None:
            off = gradio.update(value=None, interactive=False)
            return None, off, off, hidden, problem or HINT
        drawn, listed, text = draw_upload(upload, threshold, classes, show_masks, int(index))
        files = [gradio.update(value=str(path), interactive=True) for path in (drawn, listed)]
        return str(drawn), *files, hidden, text

    def on_video(
        upload: Upload, threshold: float, classes: list[int], show_masks: bool
    ) -> dict[str, Any]:
        path = draw_video(upload, threshold, classes, show_masks)
        return gradio.update(value=str(path), visible=True)

    # Every quarter of the time, files are deleted that are older than any upload in memory.
    cleaning = KEPT_SECONDS // 4, KEPT_SECONDS * 5 // 4
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=cleaning) as page:
        upload = gradio.State(time_to_live=KEPT_SECONDS)
        gradio.Markdown(f"## {title}")
        with gradio.Row():
            with gradio.Column(scale=1):
                file = gradio.File(
                    label=f"Image or video, up to {limits.megabytes} MB", elem_id="file", height=140
                )
                slider = gradio.Slider(
                    *(LOWEST_THRESHOLD, 1, threshold),
                    step=0.01,
                    label="Score threshold",
                    elem_id="threshold",
                )
                classes = gradio.Dropdown(
                    [(name, index) for index, name in enumerate(predictor.class_names)],
                    value=[],
                    multiselect=True,
                    label="Classes (none: all)",
                    elem_id="classes",
                )
                masks = gradio.Checkbox(True, label="Masks", elem_id="masks")
                frame = gradio.Slider(
                    *(0, 1, 0), step=1, label="Frame", visible=False, elem_id="frame"
                )
                text = gradio.Textbox(
                    HINT, label="Found", interactive=False, lines=3, elem_id="found"
                )
            with gradio.Column(scale=2):
                image = gradio.Image(
                    label="Objects",
                    format="png",
                    type="filepath",
                    interactive=False,
                    height=560,
                    buttons=["fullscreen"],
                    elem_id="image",
                )
                with gradio.Row():
                    png = gradio.DownloadButton("PNG", interactive=False, elem_id="png")
                    listed = gradio.DownloadButton("COCO JSON", interactive=False, elem_id="json")
                    draw = gradio.Button("Draw the video", visible=False, elem_id="draw")
                    video = gradio.DownloadButton("MP4", visible=False, elem_id="mp4")

        settings: list[Any] = [slider, classes, masks]
        shown: list[Any] = [image, png, listed, video, text]
        gradio.on(
            [file.upload, file.clear],
            on_upload,
            [file, *settings],
            [upload, frame, draw, *shown],
            api_visibility="private",
            show_progress_on=[image],
        )
        # One drawing at a time, and always one for the last position of a slider.
        gradio.on(
            [slider.input, classes.input, masks.input, frame.input],
            on_change,
            [upload, *settings, frame],
            shown,
            api_visibility="private",
            show_progress="hidden",
            trigger_mode="always_last",
        )
        draw.click(
            on_video, [upload, *settings], video, api_visibility="private", show_progress_on=[image]
        )
    return page


def serve(page: gradio.Blocks, host: str, port: int, limits: Limits) -> str:
    """Starts the page in a thread, for this machine or those that reach the host's address.

    Nothing is sent to anyone else, and of the files of this machine only uploads and what is drawn
    of them can be read.

    Returns:
        The URL.

    Raises:
        OSError: the port is in use.
    """
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        max_file_size=f"{limits.megabytes}mb",
        state_session_capacity=KEPT_VISITORS,
        prevent_thread_lock=True,
        share=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=[],
        css=STYLE,
        quiet=True,
    )
    return url


def _compress(prediction: Prediction) -> Prediction:
    """The prediction with its masks as run-length encoding, which is kept in memory."""
    found = prediction.instances
    if not found.has("pred_masks") or isinstance(found.pred_masks, RLEMasks):
        return prediction
    fields = {**found.get_fields(), "pred_masks": RLEMasks.encode(found.pred_masks)}
    return replace(prediction, instances=type(found)(found.image_size, **fields))


def _summarize(prediction: Prediction) -> str:
    """Such as '3 objects: 2 × nut, 1 × bolt'."""
    labels = prediction.instances.pred_classes.tolist()
    counts = Counter(prediction.class_names[label] for label in labels)
    listed = ", ".join(f"{number} × {name}" for name, number in counts.most_common())
    return f"{len(labels)} object{'' if len(labels) == 1 else 's'}" + (listed and f": {listed}")
