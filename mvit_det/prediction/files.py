"""Predictions for many files: images, folders, patterns and videos."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path, PurePath
from typing import Any, TypeVar

from tqdm import tqdm

from ..data.images import IMAGE_EXTENSIONS
from ..data.urls import check_url, find_urls, is_url, url_path
from ..data.video_writer import VideoWriter
from ..data.videos import VIDEO_EXTENSIONS, VideoReader
from ..errors import ConfigError, ImageError
from .partial import PANOPTIC_FOLDER, PartialResults
from .prediction import Prediction
from .predictor import Predictor, PreparedImage
from .ranks import Rank
from .tracking import Tracker

# Formats of drawn images; images in other formats become PNG.
WRITTEN_EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

RESULTS_FILE = "predictions.json"

_T = TypeVar("_T")


@dataclass(frozen=True)
class Job:
    """An image, which may be a URL, or a video, and the file for its drawn copy."""

    source: Path | str
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
        is_new: False where an interrupted call did the job.
    """

    job: Job
    images: int = 0
    instances: int = 0
    problem: str = ""
    is_new: bool = True


def find_inputs(names: Sequence[str]) -> list[Path | str]:
    """Finds the files that names refer to, each once.

    Args:
        names: files; folders, for the images and videos directly in them; and patterns such as
            `photos/*.jpg`, where `**` matches any folders. Images, folders and patterns of images
            may be URLs, which stay strings.

    Raises:
        ImageError: no file matches a name, or a URL is a video.
        StorageError: the server of a URL fails.
    """
    found: dict[str, Path | str] = {}
    for name in names:
        if not name:
            raise ImageError("an input has an empty name; name a file, a folder or a pattern")
        if is_url(name):
            found.update((url, url) for url in _find_urls(name))
            continue
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


def _find_urls(url: str) -> list[str]:
    """The images of a URL: itself, whether or not it exists, or those in a folder or pattern."""
    check_url(url)
    extension = url_path(url).suffix.lower()
    if extension in VIDEO_EXTENSIONS:
        raise ImageError(f"videos are read from files only; download '{url}' first")
    if "*" not in url and (extension in IMAGE_EXTENSIONS or "?" in url):
        return [url]
    urls = find_urls(url, IMAGE_EXTENSIONS)
    if not urls:
        raise ImageError(
            f"there is no image at '{url}', neither a folder of images (file extensions: "
            f"{' '.join(IMAGE_EXTENSIONS)}) nor files that match a pattern"
        )
    return urls


def read_list(path: str | Path) -> list[str]:
    """The lines of a list of inputs; empty ones are skipped.

    Raises:
        ImageError: the file cannot be read or lists nothing.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise ImageError(f"cannot read the list of inputs '{path}' ({reason})") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ImageError(f"the list of inputs '{path}' is empty; write one path per line")
    return names


def plan(
    sources: Sequence[Path | str], output: Path, videos: Sequence[Path | str] = ()
) -> list[Job]:
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
    are_videos = {path: _in_folders(path).suffix.lower() in VIDEO_EXTENSIONS for path in sources}
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
        names = {
            path: _output_name(_in_folders(path), is_video) for path, is_video in are_videos.items()
        }
        numbers = Counter(names.values())
        root = os.path.commonpath([_in_folders(path).parent for path in are_videos])
        for path, is_video in are_videos.items():
            folder = _in_folders(path).parent.relative_to(root) if numbers[names[path]] > 1 else ""
            jobs.append(Job(path, output / folder / names[path], is_video))
    originals = {os.path.realpath(path) for path in are_videos if not is_url(path)}
    taken: dict[Path, Path | str] = {}
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
    draw: bool = True,
    write_csv: bool = False,
    track_threshold: float | None = None,
    rank: Rank | None = None,
    key: str | None = None,
) -> Iterator[Report]:
    """Draws the instances in images and videos, and writes them in COCO's result format.

    Unreadable inputs are skipped, and their report says why. A progress bar is shown if standard
    error is a terminal.

    Each of several ranks does its share of the jobs, and the one that finishes last writes the
    results of all. Until then the results are in partial files, see `PartialResults`. A single
    process that is interrupted by an exception still writes the results it has.

    Args:
        predictor: with a score threshold that keeps the drawn images readable.
        jobs: from `plan`; the same in all ranks. Images may be URLs.
        results: file for the instances of all images and frames, one list in COCO's format.
            `image_id` counts images and frames from 1; `file_name` is the image or video, and
            `frame` counts the frames of a video from 0. Of a panoptic model, the segments of
            images are written to `panoptic.json` and PNG files in `panoptic/` next to it.
        draw: write drawn copies of images and videos; without them, only results.
        write_csv: also write a table, beside `results` and with the extension `.csv`, with a row
            per instance and the columns `CSV_COLUMNS`; boxes are in pixels.
        track_threshold: score from which on objects of videos are followed and get ids, `track_id`,
            and those of images are kept; needs a predictor with a score threshold of at most
            `tracking.LOWEST_SCORE`. Default: no ids.
        rank: of this process; default: the only one.
        key: as for `PartialResults`; needed by several ranks.

    Yields:
        The report of each job of this rank: first of those that an interrupted call with the same
        key did, then of each when it is done.

    Raises:
        ImageError: a drawn image or video cannot be written.
        OutputError: the results cannot be written.
        StorageError: the server of a URL fails. A later call continues.
    """
    rank = rank or Rank()
    partial = PartialResults(results, rank, key) if results else None
    is_done = False
    if partial:
        partial.open()
    try:
        pending = []
        done = partial.blocks() if partial else {}
        for job in rank.share(jobs):
            if str(job.source) in done:
                known = done[str(job.source)].report
                numbers = {name: known[name] for name in ("images", "instances", "problem")}
                yield Report(job, **numbers, is_new=False)
            else:
                pending.append(job)
        # Of several ranks on a terminal, one shows its progress.
        with tqdm(total=len(pending), unit="file", disable=rank.index > 0 or None) as bar:
            for report in _predict(predictor, pending, partial, draw, track_threshold):
                if partial:
                    counts = report.images, report.instances, report.problem
                    partial.finish(str(report.job.source), *counts)
                yield report
                bar.update()
        is_done = True
    finally:
        if partial:
            partial.close(is_done)
            partial.merge(
                [str(job.source) for job in jobs],
                dict(zip(predictor.category_ids, predictor.class_names)),
                write_csv=write_csv,
                allow_missing=rank.count == 1,
            )


def _predict(
    predictor: Predictor,
    jobs: Sequence[Job],
    partial: PartialResults | None,
    draw: bool,
    track_threshold: float | None,
) -> Iterator[Report]:
    for is_video, group in groupby(jobs, key=lambda job: job.is_video):
        if is_video:
            for job in group:
                yield _predict_video(predictor, job, partial, draw, track_threshold)
        else:
            for batch in _batches(group, predictor.batch_size):
                yield from _predict_images(predictor, batch, partial, draw, track_threshold)


def _predict_images(
    predictor: Predictor,
    jobs: Sequence[Job],
    partial: PartialResults | None,
    draw: bool,
    score_threshold: float | None,
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
        if score_threshold is not None:
            prediction = prediction.select(score_threshold)
        if draw:
            prediction.save(job.output)
        if partial:
            segments = _save_segments(prediction, job, partial.results.parent)
            partial.add(prediction.to_coco(), **segments)
        yield Report(job, 1, len(prediction.instances))


def _save_segments(prediction: Prediction, job: Job, folder: Path) -> dict[str, Any]:
    """Saves the segments of a panoptic model, and returns their line of the results."""
    if prediction.panoptic is None:
        return {}
    name = job.output.relative_to(folder).with_suffix(".png")
    prediction.panoptic.save_panoptic(folder / PANOPTIC_FOLDER / name)
    return {"segments": prediction.panoptic.to_coco(0, name.as_posix())}


def _predict_video(
    predictor: Predictor,
    job: Job,
    partial: PartialResults | None,
    draw: bool,
    track_threshold: float | None,
) -> Report:
    frames = instances = 0
    try:
        reader = VideoReader(job.source)
    except ImageError as error:
        return Report(job, problem=str(error))
    with (
        reader,
        VideoWriter(job.output, reader.rate) as writer,
        tqdm(
            desc=Path(job.source).name,
            total=reader.num_frames,
            unit="frame",
            leave=False,
            disable=None,
        ) as bar,
    ):
        tracker = None if track_threshold is None else Tracker(reader.rate, track_threshold)
        for batch in _batches(reader, predictor.batch_size):
            for prediction in predictor.predict([predictor.prepare(frame) for frame in batch]):
                if tracker:
                    prediction = tracker.update(prediction)
                if draw:
                    writer.write(prediction.draw())
                if partial:
                    partial.add(prediction.to_coco(), frame=frames)
                frames += 1
                instances += len(prediction.instances)
                bar.update()
    return Report(job, frames, instances, reader.problem())


def _in_folders(source: Path | str) -> PurePath:
    """An absolute path of a source, for names in the output folder; of a URL one below '/'."""
    return "/" / url_path(source) if isinstance(source, str) else source.absolute()


def _output_name(path: PurePath, is_video: bool) -> str:
    allowed = (".mp4",) if is_video else WRITTEN_EXTENSIONS
    if path.suffix.lower() in allowed:
        return path.name
    return path.name + (".mp4" if is_video else ".png")


def _batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Yields the items in order, `size` at a time; the last batch may be smaller."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
