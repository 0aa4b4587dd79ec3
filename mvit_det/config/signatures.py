"""Which arguments something takes that a config calls."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Arguments:
    """Names that can be passed as `name=value`.

    Attributes:
        names: in the order of the signature.
        is_open: whether there are others, as `**arguments` are handed on to an unknown place.
    """

    names: tuple[str, ...]
    is_open: bool


def arguments_of(target: Callable[..., Any]) -> Arguments:
    """The arguments of a function or class.

    A class that hands `**arguments` on to `super().__init__`, as many of Detectron2 and
    `MViTv2Backbone` do, takes those of its parent, too.
    """
    try:
        names, rest = _split(inspect.signature(target))
    except (TypeError, ValueError):  # of compiled code
        return Arguments((), is_open=True)
    if not rest or not inspect.isclass(target):
        return Arguments(names, is_open=bool(rest))
    found: dict[str, None] = {}
    for parent in target.__mro__:
        # Behind decorators.
        init = inspect.unwrap(parent.__dict__.get("__init__", _passes_all_on))
        names, rest = _split(inspect.signature(init))
        found.update(dict.fromkeys(names[1:]))  # without self
        if not rest:
            return Arguments(tuple(found), is_open=False)
        if init is not _passes_all_on and not _passes_on(init, rest):
            break
    return Arguments(tuple(found), is_open=True)


def _passes_all_on(self: Any, **arguments: Any) -> None:
    """Stands for the `__init__` of a class that has none of its own."""


def _split(signature: inspect.Signature) -> tuple[tuple[str, ...], str]:
    """Names of the arguments, and that of `**arguments`, or ''."""
    parameters = signature.parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = tuple(parameter.name for parameter in parameters if parameter.kind in kinds)
    rest = [parameter.name for parameter in parameters if parameter.kind is parameter.VAR_KEYWORD]
    return names, "".join(rest)


def _passes_on(init: Callable[..., Any], name: str) -> bool:
    """Whether the source of an `__init__` hands `**name` on to that of the next class."""
    try:
        source = inspect.getsource(init)
    except (OSError, TypeError):
        return False
    return re.search(rf"super\([^()]*\)\.__init__\([^()]*\*\*{name}\b", source) is not None
