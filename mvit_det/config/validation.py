"""Unknown fields and impossible values in a config, found before they do harm.

The entries of `schema.ENTRIES` have the fields of their dataclass. A call (`_target_`) has those
that its signature names. Any other dict may hold anything.
"""

import difflib
import functools
import inspect
import math
import re
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ..errors import ConfigError
from .schema import (
    CALLS,
    COMMON_ARGUMENTS,
    ENTRIES,
    Call,
    Field,
    arguments_of_call,
    fields_of,
)

REQUIRED = ("model", "dataloader", "train", "optimizer", "lr_multiplier")


def find_issues(
    config: DictConfig, added: Collection[str] = (), name: str = "the config"
) -> list[str]:
    """Checks the names of all fields, and the values of those that the schema describes.

    Args:
        config: as loaded, with overrides applied.
        added: paths of fields that were added on purpose and may have any name.
        name: of the config, for messages.

    Returns:
        One sentence per issue; [] if there is none.
    """
    issues = []
    for entry in REQUIRED:
        if entry not in config:
            near = _closest(entry, [str(other) for other in config if other not in REQUIRED])
            issues.append(f"{name} has no '{entry}'" + (f"; is it '{near}'?" if near else ""))
    call = Field(Call, "")
    for path in CALLS:
        value = _at(config, path)
        if path.partition(".")[0] in config and not call.allows(value):
            issues.append(f"{path} must be {call}, not {_shortened(value)}")
    # As written, with references to other fields still as '${…}'.
    tree: Any = OmegaConf.to_container(config, resolve=False)
    return issues + [
        issue
        for entry, node in tree.items()
        for issue in _issues(config, str(entry), node, ENTRIES.get(str(entry)), added)
    ]


def raise_issues(issues: Sequence[str]) -> None:
    """Raises a `ConfigError` that lists them, if there are any."""
    if len(issues) == 1:
        raise ConfigError(issues[0])
    if issues:
        lines = "".join(f"\n  {issue}" for issue in issues)
        raise ConfigError(f"the config has {len(issues)} mistakes:{lines}")


def find_unknown(config: DictConfig, key: str) -> str | None:
    """Checks the path of a field that an override is about to set.

    Args:
        config: before the override.
        key: dotted path; entries of lists are numbered from 0.

    Returns:
        None if there is such a field, or there can be: an argument of a call that the config
        leaves at its default. Else a sentence with the closest match.
    """
    owner, name = key, ""
    # Up to the innermost value that exists.
    while (node := _value_at(config, owner)) is None:
        owner, _, name = owner.rpartition(".")
    if isinstance(node, ListConfig) and name:
        return f"unknown field '{key}': '{owner}' is a list of {len(node)}, numbered from 0"
    if not name or not isinstance(node, DictConfig):
        return None
    known = known_fields(node.get("_target_"), _group_at(owner)).names
    if name in known or name in set(node):
        return None
    prefix = f"{owner}." if owner else ""
    near = _closest(name, [*known, *map(str, node)])
    if near:
        rest = key.removeprefix(f"{prefix}{name}")
        return f"unknown field '{key}'; did you mean '{prefix}{near}{rest}'?"
    elsewhere = [path for path in _paths(config) if path.endswith(f".{key}")]
    if elsewhere:
        return f"unknown field '{key}'; did you mean '{min(elsewhere, key=len)}'?"
    return f"unknown field '{key}'; to add it on purpose, write '+{key}=…'"


def described_field(config: DictConfig, path: str) -> Any:
    """The `Field` at a path, the dataclass of a group, or None if the schema has neither."""
    if path in CALLS:
        return Field(Call, "")
    owner, _, name = path.rpartition(".")
    if not owner:
        return ENTRIES.get(name)
    node = _value_at(config, owner)
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    return known_fields(target, _group_at(owner)).described.get(name)


@dataclass(frozen=True)
class KnownFields:
    """The fields that a group can have.

    Attributes:
        names: of the fields, in order.
        described: what the schema says of some of them.
        owner: what has these fields, for messages.
        is_open: whether the group can have others.
    """

    names: Sequence[str] = ()
    described: Mapping[str, Any] = field(default_factory=dict)
    owner: str = ""
    is_open: bool = True


def known_fields(target: Any, group: type | None = None) -> KnownFields:
    """The fields of a group that calls `target`, or that is described by a dataclass."""
    if group is not None:
        described = fields_of(group)
        return KnownFields(tuple(described), described, "this group has", is_open=False)
    target = locate_target(target)
    if target is None:
        return KnownFields()
    parameters, is_open = _parameters_of(target)
    owner = f"{getattr(target, '__name__', target)} takes"
    described = dict(COMMON_ARGUMENTS)
    for name, parameter in parameters.items():
        if (module := _module_field(parameter)) is not None:
            described[name] = module
        elif name in described and parameter.default is None:
            described[name] = replace(described[name], kind=described[name].kind | None)
    return KnownFields(tuple(parameters), described | arguments_of_call(target), owner, is_open)


def parameter_at(config: DictConfig, path: str) -> inspect.Parameter | None:
    """The parameter of a function or class that a field is passed to, if there is one."""
    owner, _, name = path.rpartition(".")
    node = _value_at(config, owner)
    target = locate_target(node.get("_target_")) if isinstance(node, DictConfig) else None
    return _parameters_of(target)[0].get(name) if target is not None else None


def arguments_of(target: Callable[..., Any]) -> tuple[tuple[str, ...], bool]:
    """The arguments of a function or class that can be passed by name.

    A class that passes `**arguments` on to `super().__init__`, as many of Detectron2 and
    `MViTv2Backbone` do, takes those of its parent as well.

    Returns:
        Their names in order, and whether there may be others, as `**arguments` go elsewhere.
    """
    parameters, is_open = _parameters_of(target)
    return tuple(parameters), is_open


@functools.cache
def _parameters_of(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    try:
        named, rest = _split(inspect.signature(target))
    except (TypeError, ValueError):  # of compiled code
        return {}, True
    if not rest or not inspect.isclass(target):
        return named, bool(rest)
    found: dict[str, inspect.Parameter] = {}
    for parent in target.__mro__:
        if "__init__" not in parent.__dict__:
            continue
        init = inspect.unwrap(parent.__dict__["__init__"])  # behind decorators
        named, rest = _split(inspect.signature(init))
        for name in list(named)[1:]:  # without self
            found.setdefault(name, named[name])
        if not rest or not _passes_on(init, rest):
            break
    return found, bool(rest)


def locate_target(target: Any) -> Callable[..., Any] | None:
    """The callable that `_target_` names; None if there is none, or it cannot be imported."""
    if isinstance(target, str):
        try:
            target = locate(target)
        except Exception:  # of the imported module
            return None
    return target if callable(target) else None


def _issues(
    config: DictConfig, path: str, value: Any, described: Any, added: Collection[str]
) -> Iterator[str]:
    """Issues of one field of the tree and of all below it; `described` is what the schema says."""
    if isinstance(described, type) and not isinstance(value, dict):
        yield f"{path} must be a group of fields ({', '.join(fields_of(described))}), not {value!r}"
    elif isinstance(value, dict):
        if isinstance(described, Field) and not described.allows(value):
            yield f"{path} must be {described}, not {_shortened(value)}"
            return
        target = value.get("_target_")
        if "_target_" in value and locate_target(target) is None:
            yield f"{path}._target_ is '{target}', which cannot be imported"
        known = known_fields(target, described if isinstance(described, type) else None)
        for name, inner in value.items():
            inner_path = f"{path}.{name}"
            if not (known.is_open or name in (*known.names, "_target_") or inner_path in added):
                near = _closest(str(name), known.names)
                yield f"unknown field '{inner_path}'; " + (
                    f"did you mean '{path}.{near}'?"
                    if near
                    else f"{known.owner} {', '.join(known.names)}"
                )
            yield from _issues(config, inner_path, inner, known.described.get(name), added)
    elif isinstance(value, float) and math.isnan(value) and described is None:
        yield f"{path} must be a number, not {value!r}"
    else:
        yield from _issues_of_value(config, path, value, described)
        for number, inner in enumerate(value if isinstance(value, list) else ()):
            yield from _issues(config, f"{path}.{number}", inner, None, added)


def _issues_of_value(
    config: DictConfig, path: str, raw: Any, described: Field | None
) -> Iterator[str]:
    """An impossible value, or one that refers to a missing field; `raw` is it as written."""
    try:
        value = OmegaConf.select(config, path)
    except OmegaConfBaseException as error:
        yield f"{path} refers to a missing field: {str(error).splitlines()[0]}"
        return
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if described is None or described.allows(value):
        return
    if reference := re.fullmatch(r"\$\{(\.*)([\w.]+)\}", str(raw)):
        dots, name = reference.groups()
        owner = path.split(".")[: -len(dots)] if dots else ()
        source = described_field(config, ".".join([*owner, name]))
        if isinstance(source, Field) and not source.allows(value):
            return  # it is an issue of the field that is referred to
    yield f"{path} must be {described}, not {_shortened(value)}"


def _module_field(parameter: inspect.Parameter) -> Field | None:
    """The field of an argument that is declared to be a module, perhaps optional, or a list."""
    kind = parameter.annotation
    inner = get_args(kind) or (kind,)
    is_module = any(inspect.isclass(each) and issubclass(each, nn.Module) for each in inner)
    if not is_module or get_origin(kind) not in (None, Union, UnionType, list):
        return None
    if get_origin(kind) is list:
        return Field(list[Call], "")
    is_optional = parameter.default is None or NoneType in inner
    return Field(Call | None if is_optional else Call, "")


def _split(signature: inspect.Signature) -> tuple[dict[str, inspect.Parameter], str]:
    """The arguments by name, and the name of `**arguments`, or ''."""
    parameters = signature.parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {parameter.name: parameter for parameter in parameters if parameter.kind in kinds}
    rest = [parameter.name for parameter in parameters if parameter.kind is parameter.VAR_KEYWORD]
    return named, "".join(rest)


def _passes_on(init: Callable[..., Any], name: str) -> bool:
    """Whether the source of an `__init__` passes `**name` on to that of the next class."""
    try:
        source = inspect.getsource(init)
    except (OSError, TypeError):
        return False
    return re.search(rf"super\([^()]*\)\.__init__\([^()]*\*\*{name}\b", source) is not None


def _group_at(path: str) -> type | None:
    """The dataclass of the group of fields at a path, if there is one."""
    first, *rest = path.split(".")
    group: Any = ENTRIES.get(first)
    for name in rest:
        group = fields_of(group).get(name) if isinstance(group, type) else None
    return group if isinstance(group, type) else None


def _at(config: DictConfig, path: str) -> Any:
    """The value at a path as Python's, with references to other fields as they are."""
    value = _value_at(config, path)
    return OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value


def _shortened(value: Any) -> str:
    """A value as a message quotes it."""
    return reprlib.repr(value) if isinstance(value, (dict, list)) else repr(value)


def _value_at(config: DictConfig, path: str) -> Any:
    """The value at a path, the config itself for ''; None if there is none."""
    try:
        return OmegaConf.select(config, path) if path else config
    except OmegaConfBaseException:
        return None


def _paths(config: DictConfig) -> list[str]:
    """Dotted paths of all fields."""

    def below(node: Any, prefix: str) -> Iterator[str]:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for name, inner in items:
            yield f"{prefix}{name}"
            if isinstance(inner, (dict, list)):
                yield from below(inner, f"{prefix}{name}.")

    return list(below(OmegaConf.to_container(config, resolve=False), ""))


def _closest(name: str, known: Sequence[str]) -> str | None:
    matches = difflib.get_close_matches(name, known, n=1)
    return matches[0] if matches else None
