"""Overrides of a config from the command line, and field names of earlier releases."""

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError
from .schema import RENAMED, Field
from .validation import described_field, find_unknown, parameter_at

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _KeptType:
    """Type of a present value, those that may replace it, and the latter in words."""

    present: Any
    replacing: Any
    words: str

    def allows(self, value: Any) -> bool:
        """Whether a value may replace the present one; True is a number to Python."""
        return isinstance(value, self.replacing) and (
            self.present is bool or not isinstance(value, bool)
        )


_KEPT_TYPES = (
    _KeptType(bool, (bool, int), "true or false"),
    _KeptType((int, float), (int, float), "a number"),
    _KeptType(ListConfig, list, "a list"),
    _KeptType(DictConfig, dict, "a group of fields"),
)


def apply_overrides(config: DictConfig, overrides: Sequence[str]) -> tuple[set[str], list[str]]:
    """Applies overrides to a config, in place.

    Values are written in Hydra's grammar. Only strings that it cannot read are taken as they are:
    directories may have spaces, commas, brackets and letters of any language in their names.

    Args:
        config: changed in place.
        overrides: `key.of.field=value`; `+key.of.field=value` adds a field on purpose.

    Returns:
        Paths of fields that were added on purpose, and one sentence for each override that was
        not applied because its field is unknown or has another type.

    Raises:
        ConfigError: an override cannot be read or applied.
    """
    added: set[str] = set()
    issues: list[str] = []
    for text in overrides:
        if "=" not in text:
            raise ConfigError(
                f"cannot read the argument '{text}': overrides are written as key.of.field=value"
            )
        name, _, _ = text.partition("=")
        key = name.lstrip("+")
        if not key:
            raise ConfigError(f"cannot read the argument '{text}': the field before '=' is missing")
        if name.startswith("~"):
            raise ConfigError(f"cannot apply {text}: fields cannot be removed")
        if key in RENAMED:
            text, key = text.replace(key, _new_name(key), 1), RENAMED[key]
        issue = find_unknown(config, key)
        if issue and name.startswith("+"):
            added.add(key)
        elif issue:
            issues.append(issue)
            continue
        value = _read_value(config, key, text)
        if issue := _issue_of_type(config, key, value):
            issues.append(issue)
            continue
        _update(config, key, value, text)
    return added, issues


def rename_fields(config: DictConfig) -> None:
    """Moves the values of fields with a name of an earlier release, in place, with a message."""
    for old in RENAMED:
        group, _, name = old.rpartition(".")
        node = OmegaConf.select(config, group) if group else None
        if isinstance(node, DictConfig) and name in set(node):
            OmegaConf.update(config, _new_name(old), node.pop(name))


def rename_flags(arguments: Sequence[str]) -> list[str]:
    """Arguments of a command line in which flags have their new names, with a message."""

    parts = (argument.partition("=") for argument in arguments)
    return [
        (_new_name(flag) if flag in RENAMED and flag.startswith("-") else flag) + equals + value
        for flag, equals, value in parts
    ]


def _new_name(old: str) -> str:
    logger.warning("'%s' is now '%s'; the next release drops the old name", old, RENAMED[old])
    return RENAMED[old]


def _read_value(config: DictConfig, key: str, text: str) -> Any:
    """The value of an override, of Hydra's grammar or, for a string, as it stands."""
    raw = text.partition("=")[2]
    described = described_field(config, key)
    if isinstance(described, Field) and described.kind is str and not _is_syntax(raw):
        return raw
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
        if override.is_sweep_override():
            raise HydraException("it lists several values; write a list as [a,b]")
        return override.value()
    except HydraException as error:
        if isinstance(OmegaConf.select(config, key), str):
            return raw
        reason = str(error).splitlines()[0]
        raise ConfigError(f"cannot apply {text}: {reason}") from error


def _is_syntax(raw: str) -> bool:
    """Whether the value of a string is in quotes, a reference, none, a dict or a list."""
    is_quoted = len(raw) > 1 and raw[0] in "'\"" and raw[-1] == raw[0]
    is_container = raw[:1] + raw[-1:] in ("{}", "[]")
    return is_quoted or is_container or raw == "null" or raw.startswith("${")


def _issue_of_type(config: DictConfig, key: str, value: Any) -> str | None:
    """A sentence on a value of another type than the present one."""
    # The schema says more about the fields that it describes.
    is_reference = isinstance(value, str) and value.startswith("${")
    if is_reference or described_field(config, key) is not None:
        return None
    old = OmegaConf.select(config, key, throw_on_resolution_failure=False)
    kept = next((kept for kept in _KEPT_TYPES if isinstance(old, kept.present)), None)
    if kept is None or kept.allows(value) or _takes_other_types(parameter_at(config, key), value):
        return None
    return f"{key} must be {kept.words}, not {value!r}"


def _takes_other_types(parameter: inspect.Parameter | None, value: Any) -> bool:
    """Whether an argument is declared to take None, or values of several types."""
    if parameter is None:
        return False
    kinds = get_args(parameter.annotation)
    if value is None:
        return parameter.default is None or NoneType in kinds
    return get_origin(parameter.annotation) in (Union, UnionType) and len(kinds) > 2


def _update(config: DictConfig, key: str, value: Any, text: str) -> None:
    owner = key.rpartition(".")[0]
    while owner:
        node = OmegaConf.select(config, owner)
        if node is not None and not OmegaConf.is_config(node):
            raise ConfigError(f"cannot apply {text}: '{owner}' is {node!r} and has no fields")
        owner = owner.rpartition(".")[0]
    try:
        OmegaConf.update(config, key, value, merge=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"cannot apply {text}: {str(error).splitlines()[0]}") from error
