"""A config's `_target_`s against the signatures they will be called with, partials too: names, presence, types.

Hydra finds a misspelt key when it builds the object; a partial hides it until the object is called, hours later.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from hydra.utils import get_object


def target_problems(plain: Mapping[str, Any]) -> list[str]:
    """Every `_target_` of the config bound to its signature: unknown, missing and wrongly typed arguments."""
    found = []
    for path, node in _targets(plain):
        try:
            built = get_object(node["_target_"])
            signature = inspect.signature(built)
        except Exception as error:
            reason = str(error).splitlines()[0]
            found.append(f"{path}._target_={node['_target_']}: cannot be imported ({reason})")
            continue
        given = {k: v for k, v in node.items() if not k.startswith("_")}
        found += _bind(path, built, signature, given, partial=bool(node.get("_partial_")))
    return found


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    items: Any = ()
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        items = node.items()
    elif isinstance(node, list):
        items = enumerate(node)
    for key, value in items:
        yield from _targets(value, f"{path}.{key}" if path else str(key))


def _bind(path: str, built: Any, signature: inspect.Signature, given: dict[str, Any], partial: bool) -> list[str]:
    parameters = {k: p for k, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    found = [] if takes_any else unknown_problems(path + ".", set(given), set(parameters))
    if not partial:
        needed = [k for k, p in parameters.items() if p.default is p.empty and k not in given]
        found += [f"{path}.{k}: missing; {built.__name__} needs it" for k in needed]
    hints = _type_hints(built)
    for key, value in given.items():
        if key in hints and not isinstance(value, Mapping) and not _fits(value, hints[key]):
            found.append(f"{path}.{key}={value}: is not of type {_type_name(hints[key])}")
    return found


def _type_hints(built: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(built.__init__ if inspect.isclass(built) else built)
    except Exception:  # a library whose annotations cannot be evaluated: names are still checked
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain YAML value can be what an annotation asks for; annotations beyond plain values always fit."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, h) for h in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    if origin in (list, tuple, Sequence):
        inner = [h for h in typing.get_args(hint) if h is not ...] or [Any]
        same = len(inner) == 1
        return isinstance(value, list) and all(_fits(v, inner[0]) for v in value if same)
    return True


def _type_name(hint: Any) -> str:
    return str(hint.__name__) if inspect.isclass(hint) else str(hint).replace("typing.", "")


def unknown_problems(prefix: str, given: set[str], known: set[str]) -> list[str]:
    """A line for each of the `given` keys that is not among the `known` ones, with the nearest of those."""
    found = []
    for key in sorted(given - known):
        close = get_close_matches(key, known, n=1)
        hint = f"did you mean {prefix}{close[0]}?" if close else "known here: " + ", ".join(sorted(known))
        found.append(f"{prefix}{key}: unknown key; {hint}")
    return found
