"""Errors that a user can fix: one sentence that says what is wrong, where, and what to do."""

import errno

# Numbers of the operating system's errors about a disk that is full, damaged or read-only.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


class MViTDetError(Exception):
    """Base of the errors below; the tools print its text without a traceback."""


class ConfigError(MViTDetError, ValueError):
    """An invalid config or override."""


class DatasetError(MViTDetError):
    """A missing or invalid dataset."""


class ImageError(DatasetError):
    """An image or video that cannot be read, or contradicts its annotations."""


class StorageError(MViTDetError):
    """An object store or web server that fails, cannot be reached, or refuses credentials."""


class TrainingError(MViTDetError):
    """A training or an evaluation that cannot continue."""


class CheckpointError(MViTDetError):
    """Weights that cannot be found, read or used."""


class OutputError(MViTDetError):
    """Results that cannot be written."""


class DeviceError(MViTDetError):
    """A device that this machine does not have, or that cannot be used."""


class ExportError(MViTDetError):
    """A model that cannot be exported, or an exported file that cannot be run."""
