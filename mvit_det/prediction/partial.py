"""Results of many files as JSON lines, which survive a kill, and one file of all at the end."""

import csv
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..data.folders import open_csv
from ..errors import ConfigError, OutputError
from .ranks import Rank

CSV_COLUMNS = (
    "file_name", "frame", "image_id", "category_id", "class", "score", "x", "y", "width", "height",
    "track_id",
)  # fmt: skip
# COCO's panoptic format: a list of segments, and a PNG of their numbers for each image.
PANOPTIC_FILE, PANOPTIC_FOLDER = "panoptic.json", "panoptic"

# How the line of a report begins: it ends the block of lines of a file.
_REPORT = b'{"source"'


@dataclass(frozen=True)
class Block:
    """Where the results of a file are: the line of each image or frame, then that of the report.

    Attributes:
        path, start: file of lines, and position in bytes.
        report: `source`, `images`, `instances` and `problem`.
    """

    path: Path
    start: int
    report: dict[str, Any]


class PartialResults:
    """Lines of results, one file per rank, in a folder beside the results.

        predictions.partial-1f0c/rank-0.jsonl
        predictions.partial-1f0c/rank-1.jsonl

    Each rank appends to its own file, and a block of lines counts once its last line is complete.
    So an interrupted command continues after the last complete block, also with another number of
    ranks. The rank that finishes last finds the results of all inputs there and writes them to one
    file: no rank waits for another, and none needs a network connection.
    """

    def __init__(self, results: Path, rank: Rank, key: str | None = None) -> None:
        """Chooses the folder.

        Args:
            results: the file for all results.
            rank: of this process.
            key: stands for all that the predictions depend on, such as the weights. Results of an
                earlier, interrupted command with the same key are continued; without a key, which
                only a single rank can do, none are.
        """
        self.results = results
        self.folder = results.with_name(f"{results.stem}.partial" + (f"-{key}" if key else ""))
        self._rank = rank
        self._own = self.folder / f"rank-{rank.index}.jsonl"
        self._marker = self._own.with_suffix(".done")
        self._continues = key is not None

    def open(self) -> None:
        """Opens the file of this rank after its last complete block.

        Raises:
            OutputError: it cannot be written.
            ConfigError: another process writes to it, or to the folder with another key.
        """
        try:
            if self._rank.index == 0:
                self._discard_others()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._own, "ab")  # noqa: SIM115
            _lock(self._file, self._own)
            self._marker.unlink(missing_ok=True)
            if not self._continues:
                for path in self.folder.glob("rank-*.jsonl"):
                    os.truncate(path, 0)
            self._file.truncate(max((end for _, end in _blocks(self._own)), default=0))
        except OSError as error:
            raise _cannot_write(self._own, error) from error

    def _discard_others(self) -> None:
        """Deletes partial results with other keys: drawn images of this command replace theirs."""
        for folder in self.results.parent.glob(f"{self.results.stem}.partial*"):
            if folder != self.folder:
                for path in folder.glob("rank-*.jsonl"):
                    with open(path, "r+b") as file:
                        _lock(file, path)
                shutil.rmtree(folder, ignore_errors=True)

    def close(self, is_done: bool) -> None:
        """Closes the file of this rank, so that other machines see all of it.

        Args:
            is_done: whether this rank has done its share, which it tells the others.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            self._file.close()
            if is_done:
                self._marker.write_text(str(self._rank.count), encoding="utf-8")
        except OSError as error:
            raise _cannot_write(self._own, error) from error

    def add(self, results: Sequence[Mapping[str, Any]], **more: Any) -> None:
        """Appends the results of an image or frame, and more about it: `frame`, `segments`."""
        self._write({"results": results, **more})

    def finish(self, source: str, images: int, instances: int, problem: str) -> None:
        """Ends the block of a file; from now on it survives the end of this process."""
        self._write(
            {"source": source, "images": images, "instances": instances, "problem": problem}
        )

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line).encode() + b"\n")
            if "source" in line:
                self._file.flush()
        except OSError as error:
            raise _cannot_write(self._own, error) from error

    def blocks(self) -> dict[str, Block]:
        """The complete blocks of all ranks, by source."""
        paths = sorted(self.folder.glob("rank-*.jsonl"))
        found = (block for path in paths for block, _ in _blocks(path))
        return {block.report["source"]: block for block in found}

    def merge(
        self,
        sources: Sequence[str],
        class_names: Mapping[int, str],
        *,
        write_csv: bool = False,
        allow_missing: bool = False,
    ) -> bool:
        """Writes the results of all sources, in their order, and deletes the partial ones.

        Args:
            sources: of all ranks.
            class_names: by category id, for the table.
            write_csv: also write a table.
            allow_missing: write what there is, and keep the partial results unless it is all.

        Returns:
            Whether results were written; False where other ranks are not done.

        Raises:
            OutputError: a file cannot be written.
        """
        # Reading the lines of all ranks takes long: only those that finish last do it.
        if not allow_missing and not self._all_are_done():
            return False
        blocks = self.blocks()
        is_complete = all(source in blocks for source in sources)
        if not is_complete and not allow_missing:
            return False
        chosen = [blocks[source] for source in sources if source in blocks]
        try:
            self._write_all(chosen, class_names, write_csv)
        except FileNotFoundError:
            # Another rank was done at the same moment, and has written the results.
            if not self.results.exists():
                raise
        except OSError as error:
            raise _cannot_write(self.results, error) from error
        if is_complete or not self._continues:
            shutil.rmtree(self.folder, ignore_errors=True)
        return True

    def _all_are_done(self) -> bool:
        """Whether the markers of all ranks are there, which have as many ranks as this one."""
        count = self._rank.count
        markers = [self._own.with_name(f"rank-{index}.done") for index in range(count)]
        try:
            return all(int(path.read_text(encoding="utf-8") or 0) == count for path in markers)
        except FileNotFoundError:
            return False

    def _write_all(
        self, blocks: Sequence[Block], class_names: Mapping[int, str], write_csv: bool
    ) -> None:
        """Writes files under names of this rank, and then renames them: none is ever half there."""
        renames = {self._own.with_suffix(".json"): self.results}
        segments = []
        with ExitStack() as stack:
            file = stack.enter_context(open(self._own.with_suffix(".json"), "w", encoding="utf-8"))
            table = None
            if write_csv:
                path = self._own.with_suffix(".csv")
                renames[path] = self.results.with_suffix(".csv")
                rows = stack.enter_context(open_csv(path))
                table = csv.DictWriter(rows, CSV_COLUMNS, extrasaction="ignore")
                table.writeheader()
            separator = "[\n"
            for image_id, (source, image) in enumerate(_images(blocks), start=1):
                origin = {"file_name": source}
                if "frame" in image:
                    origin["frame"] = image["frame"]
                for each in image["results"]:
                    result = {**each, "image_id": image_id, **origin}
                    file.write(separator + json.dumps(result))
                    separator = ",\n"
                    if table:
                        table.writerow(_row(result, class_names))
                if "segments" in image:
                    segments.append({**image["segments"], "image_id": image_id, "source": source})
            file.write("[]\n" if separator == "[\n" else "\n]\n")
        if segments:
            path = self._own.with_suffix(".panoptic.json")
            path.write_text(json.dumps({"annotations": segments}), encoding="utf-8")
            renames[path] = self.results.with_name(PANOPTIC_FILE)
        for temporary, path in renames.items():
            os.replace(temporary, path)


def _blocks(path: Path) -> Iterator[tuple[Block, int]]:
    """The complete blocks of a file, each with the position of its end."""
    with open(path, "rb") as file:
        start = end = 0
        for line in file:
            end += len(line)
            if not line.startswith(_REPORT) or not line.endswith(b"\n"):
                continue
            try:
                report = json.loads(line)
            except ValueError:
                # After a power failure a file may end with zeros.
                return
            yield Block(path, start, report), end
            start = end


def _images(blocks: Sequence[Block]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Source and line of each image and frame of blocks."""
    with ExitStack() as stack:
        files: dict[Path, BinaryIO] = {}
        for block in blocks:
            if block.path not in files:
                files[block.path] = stack.enter_context(open(block.path, "rb"))
            file = files[block.path]
            file.seek(block.start)
            while not (line := file.readline()).startswith(_REPORT):
                yield block.report["source"], json.loads(line)


def _row(result: Mapping[str, Any], class_names: Mapping[int, str]) -> dict[str, Any]:
    box = dict(zip(("x", "y", "width", "height"), result["bbox"]))
    return {**result, **box, "class": class_names[result["category_id"]]}


def _lock(file: BinaryIO, path: Path) -> None:
    """Keeps other processes out of a file, until it is closed.

    Raises:
        ConfigError: another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks.
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"another process writes to '{path}'; wait for its end, choose another output folder, "
            "or start the processes with torchrun or srun, which number them"
        ) from error
    except OSError:
        # Some network file systems have no locks.
        return


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write '{path}' ({error.strerror or error}); make room there")
