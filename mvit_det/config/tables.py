"""The tables of the documentation: `python -m mvit_det.config.tables docs/configuration.md`.

They list the fields that the schema describes, in the order of a config and with its defaults.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..model_zoo import config_path
from .loading import load_config
from .schema import ENTRIES, Field, arguments_of_call, fields_of

REFERENCE = "mask_rcnn_mvitv2_t"


def updated(page: str) -> str:
    """A page in which the table below each heading of an entry (## `train`) is up to date."""
    for entry, table in tables(load_config(config_path(REFERENCE))).items():
        pattern = rf"(\n## `{entry}`\n(?:(?!\n#).)*?\n)\| field \|.*?\n(?=\n|\Z)"
        page = re.sub(pattern, lambda match: match[1] + table + "\n", page, flags=re.S)  # noqa: B023
    return page


def tables(config: DictConfig) -> dict[str, str]:
    """A Markdown table of the described fields of each entry of a config."""
    head = "| field | value | default | meaning |\n|---|---|---|---|\n"
    seen: set[Any] = set()
    tree: Any = OmegaConf.to_container(config, resolve=False)
    found = {name: list(_rows(name, node, ENTRIES.get(name), seen)) for name, node in tree.items()}
    return {name: head + "\n".join(rows) for name, rows in found.items() if rows}


def _rows(path: str, node: Any, group: type | None, seen: set[Any]) -> Iterator[str]:
    """Rows for a group of fields and those below it, in the order of the config.

    References to other fields have none, nor have defaults of what was called before.
    """
    if not isinstance(node, dict):
        return
    if group is not None:
        # The config may have changed its defaults.
        described, values = fields_of(group), vars(group())
    else:
        target = node.get("_target_")
        described = arguments_of_call(target)
        defaults = {} if target in seen else {name: _default(target, name) for name in described}
        values = {**node, **{name: value for name, value in defaults.items() if name not in node}}
        seen.add(target)
    for name, value in values.items():
        inner = described.get(name)
        if isinstance(inner, Field) and inner.holds_call:
            inner = None
        if isinstance(inner, Field) and not str(value).startswith("${"):
            default = repr(_rounded(value)).replace("'", '"')
            yield f"| `{path}.{name}` | {inner} | `{default}` | {inner.meaning} |"
        elif not isinstance(inner, Field):
            yield from _rows(f"{path}.{name}", node.get(name), inner, seen)


def _default(target: Any, name: str) -> Any:
    """The default of an argument of a function, or of a class or its parents."""
    for part in getattr(target, "__mro__", (target,)):
        parameters = inspect.signature(part).parameters
        if name in parameters:
            return parameters[name].default
    raise ValueError(f"{target} has no argument '{name}', which the schema describes")


def _rounded(value: Any) -> Any:
    """Numbers with as many digits as a reader needs."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    for name in sys.argv[1:]:
        page = Path(name)
        page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
