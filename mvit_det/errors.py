"""What can go wrong that a user can mend: one sentence that says what, where and what to do."""


class MViTDetError(Exception):
    """Base of the errors below; the tools print its text without a traceback."""


class ConfigError(MViTDetError, ValueError):
    """A configuration, or a change to it on the command line, that cannot be used."""


class DatasetError(MViTDetError):
    """A dataset that is missing or broken."""


class ImageError(DatasetError):
    """An image that cannot be read, or cannot be what its annotations say."""


class TrainingError(MViTDetError):
    """A training, or an evaluation, that cannot go on as it is."""


class CheckpointError(MViTDetError):
    """Weights that cannot be found, read or used."""


class OutputError(MViTDetError):
    """Results that cannot be written."""


class DeviceError(MViTDetError):
    """A device that this machine does not have."""
