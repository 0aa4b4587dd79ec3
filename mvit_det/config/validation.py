"""Finding misspelt fields and wrong values in a config before they do harm."""

import difflib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError
from .schema import FIELDS, OPTIONAL, is_group, names_below
from .signatures import Arguments, arguments_of

REQUIRED = ("model", "dataloader", "train", "optimizer", "lr_multiplier")


def find_issues(config: DictConfig, added: Collection[str] = ()) -> list[str]:
    """Checks the names of all fields, and the values of those in `train` and `data`.

    What is called with fields as its arguments (`_target_`) says by its signature which there
    can be. `train` and `data` are described in `fields`; other entries that are plain
    dicts may hold anything.

    Args:
        config: as read from a file, with changes applied.
        added: paths of fields that were added on purpose, and may have any name.

    Returns:
        What is wrong, in sentences; [] if nothing is.
    """
    # As it is written, with what refers to other fields still as '${…}'.
    tree: Any = OmegaConf.to_container(config, resolve=False)
    issues = []
    for name in REQUIRED:
        if name not in tree:
            near = _near(name, [other for other in tree if other not in REQUIRED])
            issues.append(f"the config has no '{name}'" + (f"; is it '{near}'?" if near else ""))
    for name, node in tree.items():
        if is_group(name):
            issues += _issues_in_group(config, name, node, added)
        else:
            issues += _issues_in_call(node, name, added)
    for path in _paths(config):
        issues += _issues_of_reference(config, path)
    return issues


def raise_issues(issues: Sequence[str]) -> None:
    """Raises a `ConfigError` that lists them, if there are any."""
    if len(issues) == 1:
        raise ConfigError(issues[0])
    if issues:
        lines = "".join(f"\n  {problem}" for problem in issues)
        raise ConfigError(f"the config has {len(issues)} mistakes:{lines}")


def find_unknown(config: DictConfig, key: str) -> str | None:
    """Says what is wrong with the path of a field that is about to be set.

    Args:
        config: before the change.
        key: dotted path; entries of lists are numbered from 0.

    Returns:
        None if there is such a field, or there can be: an argument of what is called there that
        the config has left to its default.
    """
    node: Any = config
    parts = key.split(".")
    for position, part in enumerate(parts):
        before, path = ".".join(parts[:position]), ".".join(parts[: position + 1])
        if before in FIELDS:
            return None
        if is_group(path) or path in FIELDS:
            node = OmegaConf.select(config, path)
        elif isinstance(node, ListConfig):
            if not part.isdigit() or int(part) >= len(node):
                size = f"'{before}' is a list of {len(node)}, numbered from 0"
                return f"unknown field '{key}': {size}"
            node = node[int(part)]
        elif isinstance(node, DictConfig) or is_group(before):
            known = names_below(before) or list(OPTIONAL if node is config else ())
            known += [] if node is None else map(str, node)
            if part not in known:
                target = None if node is None else _target_of(node.get("_target_"))
                arguments = arguments_of(target).names if target else ()
                if part in arguments:
                    return None
                return _unknown_in_change(
                    config, key, before, part, parts[position + 1 :], [*known, *arguments]
                )
            node = OmegaConf.select(config, path)
        else:
            # Something that has no fields, which is what changing it will say.
            return None
    return None


def _unknown_in_change(
    config: DictConfig, key: str, before: str, part: str, rest: list[str], known: list[str]
) -> str:
    near = _near(part, known)
    if near:
        suggestion = ".".join([before, near, *rest] if before else [near, *rest])
        return f"unknown field '{key}'; did you mean '{suggestion}'?"
    elsewhere = [path for path in _paths(config) if path.endswith(f".{key}")]
    if elsewhere:
        return f"unknown field '{key}'; did you mean '{min(elsewhere, key=len)}'?"
    return f"unknown field '{key}'; to add it on purpose, write '+{key}=…'"


def _issues_in_group(
    config: DictConfig, group: str, node: Any, added: Collection[str]
) -> Iterator[str]:
    """Problems of a dict whose fields are described in `FIELDS`."""
    known = names_below(group)
    if not isinstance(node, dict):
        yield f"{group} must be a group of fields ({', '.join(known)}), not {node!r}"
        return
    for name, value in node.items():
        path = f"{group}.{name}"
        if is_group(path):
            yield from _issues_in_group(config, path, value, added)
        elif path in FIELDS:
            yield from _issues_of_value(config, path)
        elif path not in added:
            yield _unknown(path, known, f"{group} has")
    if group.partition(".")[0] not in OPTIONAL:
        missing = [f"{group}.{name}" for name in known if name not in node]
        if missing:
            yield (
                f"the config has no {', '.join(missing)}; configs/common/train.py holds all fields "
                "with their defaults"
            )


def _issues_of_value(config: DictConfig, path: str) -> Iterator[str]:
    field = FIELDS[path]
    try:
        value = OmegaConf.select(config, path)
    except OmegaConfBaseException:
        return  # reported as a reference
    if isinstance(value, ListConfig):
        value = list(value)
    demand = field.demand(value)
    if demand:
        yield f"{path} must be {demand}, not {value!r}"


def _issues_in_call(node: Any, path: str, added: Collection[str]) -> Iterator[str]:
    """Problems of the arguments of whatever is called in a part of the config."""
    if isinstance(node, list):
        for number, entry in enumerate(node):
            yield from _issues_in_call(entry, f"{path}.{number}", added)
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        target = _target_of(node["_target_"])
        if target is None:
            yield f"{path}._target_ is '{node['_target_']}', which cannot be imported"
        else:
            yield from _issues_of_arguments(node, path, target, added)
    for name, value in node.items():
        yield from _issues_in_call(value, f"{path}.{name}", added)


def _issues_of_arguments(
    node: dict[str, Any], path: str, target: Callable[..., Any], added: Collection[str]
) -> Iterator[str]:
    arguments: Arguments = arguments_of(target)
    if arguments.is_open:
        return
    for name in node:
        if name != "_target_" and name not in arguments.names and f"{path}.{name}" not in added:
            owner = f"{getattr(target, '__name__', target)} takes"
            yield _unknown(f"{path}.{name}", arguments.names, owner)


def _issues_of_reference(config: DictConfig, path: str) -> Iterator[str]:
    """Problems of a field such as '${..lr}' whose value is that of another one."""
    try:
        OmegaConf.select(config, path)
    except OmegaConfBaseException as error:
        yield f"{path} refers to what is not there: {str(error).splitlines()[0]}"


def _target_of(target: Any) -> Callable[..., Any] | None:
    """What `_target_` calls; None if it is not there, or cannot be imported."""
    if isinstance(target, str):
        try:
            target = locate(target)
        except Exception:  # whatever happens in a module that is imported
            return None
    return target if callable(target) else None


def _unknown(path: str, known: Sequence[str], owner: str) -> str:
    group, _, name = path.rpartition(".")
    near = _near(name, known)
    if near:
        return f"unknown field '{path}'; did you mean '{group}.{near}'?"
    return f"unknown field '{path}'; {owner} {', '.join(known)}"


def _near(name: str, known: Sequence[str]) -> str | None:
    matches = difflib.get_close_matches(name, known, n=1)
    return matches[0] if matches else None


def _paths(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted paths of all fields, of groups as well as of values."""
    if not isinstance(node, (DictConfig, ListConfig)):
        return
    for name in range(len(node)) if isinstance(node, ListConfig) else list(node):
        path = f"{prefix}{name}"
        yield path
        yield from _paths(node._get_node(name), f"{path}.")
