"""Predictions for many files: images, folders, patterns and videos."""

import csv
import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from ..data.images import IMAGE_EXTENSIONS
from ..data.videos import VIDEO_EXTENSIONS, VideoReader
from ..errors import ConfigError, ImageError
from .prediction import Prediction
from .predictor import Predictor, PreparedImage
from .video import VideoWriter

# Formats of drawn images; images in other formats become PNG.
WRITTEN_EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

RESULTS_FILE = "predictions.json"
CSV_COLUMNS = (
    "file_name", "frame", "image_id", "category_id", "class", "score", "x", "y", "width", "height",
)  # fmt: skip
# COCO\'s panoptic format: a list of segments, and a PNG of their numbers for each image.
PANOPTIC_FILE, PANOPTIC_FOLDER = "panoptic.json", "panoptic"

_T = TypeVar("_T")


@dataclass(frozen=True)
class Job:
    """An image or a video, and the file for its drawn copy."""

    source: Path
    output: Path
    is_video: bool = False


@dataclass(frozen=True)
class Report:
    """The result of a job.

    Attributes:
        job: the job.
        images: number of images or frames written.
        instances: number of instances found in them.
        problem: reason why images or frames are missing, in a sentence; '' if none are.
    """

    job: Job
    images: int = 0
    instances: int = 0
    problem: str = ""


def find_inputs(names: Sequence[str]) -> list[Path]:
    """Finds the files that names refer to, each once.

    Args:
        names: files; folders, for the images and videos directly in them; and patterns such as
            `photos/*.jpg`, where `**` matches any folders.

    Raises:
        ImageError: no file matches a name.
    """
    found: dict[str, Path] = {}
    for name in names:
        if not name:
            raise ImageError("an input has an empty name; name a file, a folder or a pattern")
        if Path(name).is_dir():
            extensions = (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS)
            files = [path for path in Path(name).iterdir() if path.suffix.lower() in extensions]
            if not files:
                raise ImageError(
                    f"the folder '{name}' has no image or video directly in it (file extensions: "
                    f"{' '.join(extensions)}); for nested folders use '{name}/**/*.jpg'"
                )
        elif Path(name).exists():
            files = [Path(name)]
        else:
            files = [Path(file) for file in glob.glob(name, recursive=True) if Path(file).is_file()]
            if not files:
                raise ImageError(f"there is no image, video or folder '{name}'")
        for path in sorted(files):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def plan(sources: Sequence[Path], output: Path, videos: Sequence[Path] = ()) -> list[Job]:
    """Chooses the output file of each image and video.

    Outputs keep the names of their sources; where names collide, the sources' folders are created
    in the output folder. Formats that cannot be written get `.png` or `.mp4` appended.

    Args:
        sources: images and videos, distinguished by their file extensions.
        output: a folder, or a file, by its extension, if there is one source.
        videos: further videos, whatever their extensions.

    Raises:
        ConfigError: several sources for one file, a file extension that does not suit, or an output
            that would overwrite a source.
    """
    are_videos = {path: path.suffix.lower() in VIDEO_EXTENSIONS for path in sources}
    are_videos.update((path, True) for path in videos)
    jobs = []
    if output.suffix.lower() in (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS) and not output.is_dir():
        if len(are_videos) != 1:
            raise ConfigError(
                f"'{output}' is one file, but there are {len(are_videos)} inputs; choose a folder "
                "for the outputs"
            )
        ((source, is_video),) = are_videos.items()
        allowed = (".mp4",) if is_video else WRITTEN_EXTENSIONS
        if output.suffix.lower() not in allowed:
            kind = "video" if is_video else "image"
            raise ConfigError(
                f"cannot write '{output}': the output of a {kind} needs the extension "
                f"{' or '.join(allowed)}"
            )
        jobs.append(Job(source, output, is_video))
    else:
        if output.exists() and not output.is_dir():
            raise ConfigError(f"'{output}' is a file, not a folder; choose another output")
        names = {path: _output_name(path, is_video) for path, is_video in are_videos.items()}
        numbers = Counter(names.values())
        root = os.path.commonpath([path.absolute().parent for path in are_videos])
        for path, is_video in are_videos.items():
            folder = path.absolute().parent.relative_to(root) if numbers[names[path]] > 1 else ""
            jobs.append(Job(path, output / folder / names[path], is_video))
    originals = {os.path.realpath(path) for path in are_videos}
    taken: dict[Path, Path] = {}
    for job in jobs:
        if os.path.realpath(job.output) in originals:
            raise ConfigError(
                f"the output would overwrite the input '{job.output}'; choose another output"
            )
        if job.output in taken:
            raise ConfigError(
                f"'{taken[job.output]}' and '{job.source}' would both be written to "
                f"'{job.output}'; rename one of them"
            )
        taken[job.output] = job.source
    return jobs


def results_path(output: Path, jobs: Sequence[Job]) -> Path | None:
    """The file for COCO's results in the output folder; None if the output is a single file."""
    return None if [job.output for job in jobs] == [output] else output / RESULTS_FILE


def predict_files(
    predictor: Predictor,
    jobs: Sequence[Job],
    results: Path | None = None,
    *,
    write_csv: bool = False,
) -> Iterator[Report]:
    """Draws the instances in images and videos, and writes them in COCO's result format.

    Unreadable inputs are skipped, and their report says why. A progress bar is shown if standard
    error is a terminal.

    Args:
        predictor: with a score threshold that keeps the drawn images readable.
        jobs: from `plan`.
        results: file for the instances of all images and frames, one list in COCO's format.
            `image_id` counts images and frames from 1; `file_name` is the image or video, and
            `frame` counts the frames of a video from 0. Of a panoptic model, the segments of
            images are written to `panoptic.json` and PNG files in `panoptic/` next to it.
        write_csv: also write a table, beside `results` and with the extension `.csv`, with a row
            per instance and the columns `CSV_COLUMNS`; boxes are in pixels.

    Yields:
        The report of each job when it is done.

    Raises:
        ImageError: an output cannot be written.
    """
    with ExitStack() as stack:
        writer = stack.enter_context(_ResultsWriter(results, write_csv))
        bar = stack.enter_context(tqdm(total=len(jobs), unit="file", disable=None))
        for is_video, group in groupby(jobs, key=lambda job: job.is_video):
            if is_video:
                for job in group:
                    yield _predict_video(predictor, job, writer)
                    bar.update()
                continue
            for batch in _batches(group, predictor.batch_size):
                for report in _predict_images(predictor, batch, writer):
                    yield report
                    bar.update()


def _predict_images(
    predictor: Predictor, jobs: Sequence[Job], results: "_ResultsWriter"
) -> Iterator[Report]:
    prepared: list[PreparedImage] = []
    readable: list[Job] = []
    for job in jobs:
        try:
            prepared.append(predictor.prepare(job.source))
        except ImageError as error:
            yield Report(job, problem=str(error))
        else:
            readable.append(job)
    for job, prediction in zip(readable, predictor.predict(prepared)):
        prediction.save(job.output)
        results.add(prediction, file_name=str(job.source))
        results.add_segments(prediction, job)
        yield Report(job, 1, len(prediction.instances))


def _predict_video(predictor: Predictor, job: Job, results: "_ResultsWriter") -> Report:
    frames = instances = 0
    try:
        reader = VideoReader(job.source)
    except ImageError as error:
        return Report(job, problem=str(error))
    with (
        reader,
        VideoWriter(job.output, reader.rate) as writer,
        tqdm(
            desc=job.source.name, total=reader.num_frames, unit="frame", leave=False, disable=None
        ) as bar,
    ):
        for batch in _batches(reader, predictor.batch_size):
            for prediction in predictor.predict([predictor.prepare(frame) for frame in batch]):
                writer.write(prediction.draw())
                results.add(prediction, file_name=str(job.source), frame=frames)
                frames += 1
                instances += len(prediction.instances)
                bar.update()
    return Report(job, frames, instances, reader.problem())


class _ResultsWriter:
    """Writes a JSON list, and a table if wanted, image by image; without a path, nothing."""

    def __init__(self, path: Path | None, write_csv: bool) -> None:
        self._path = path
        self._csv_path = path.with_suffix(".csv") if path and write_csv else None
        self._files = ExitStack()
        self._images = 0
        self._instances = 0
        self._segments: list[dict[str, Any]] = []

    def __enter__(self) -> "_ResultsWriter":
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._files.enter_context(open(self._path, "w", encoding="utf-8"))
                if self._csv_path is not None:
                    table = open(self._csv_path, "w", encoding="utf-8", newline="")
                    self._table = csv.DictWriter(
                        self._files.enter_context(table), CSV_COLUMNS, extrasaction="ignore"
                    )
                    self._table.writeheader()
            except OSError as error:
                reason = error.strerror or error
                raise ImageError(f"cannot write '{self._path}' ({reason})") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._file.write("\n]\n" if self._instances else "[]\n")
            self._files.close()
            if self._segments:
                path = self._path.parent / PANOPTIC_FILE
                path.write_text(json.dumps({"annotations": self._segments}), encoding="utf-8")

    def add_segments(self, prediction: Prediction, job: Job) -> None:
        """Writes the segments of the image that was added last, of a panoptic model."""
        if self._path is None or prediction.panoptic is None:
            return
        folder = self._path.parent
        name = job.output.relative_to(folder).with_suffix(".png")
        prediction.panoptic.save_panoptic(folder / PANOPTIC_FOLDER / name)
        annotation = prediction.panoptic.to_coco(self._images, name.as_posix())
        self._segments.append({**annotation, "source": str(job.source)})

    def add(self, prediction: Prediction, **origin: Any) -> None:
        """Appends the instances of the next image, each with its origin."""
        self._images += 1
        if self._path is None:
            return
        names = dict(zip(prediction.category_ids, prediction.class_names))
        for result in prediction.to_coco(self._images):
            if self._csv_path is not None:
                box = dict(zip(("x", "y", "width", "height"), result["bbox"]))
                name = names[result["category_id"]]
                self._table.writerow({**result, **origin, **box, "class": name})
            separator = ",\n" if self._instances else "[\n"
            self._file.write(separator + json.dumps({**result, **origin}))
            self._instances += 1


def _output_name(path: Path, is_video: bool) -> str:
    allowed = (".mp4",) if is_video else WRITTEN_EXTENSIONS
    if path.suffix.lower() in allowed:
        return path.name
    return path.name + (".mp4" if is_video else ".png")


def _batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Yields the items in order, `size` at a time; the last batch may be smaller."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
