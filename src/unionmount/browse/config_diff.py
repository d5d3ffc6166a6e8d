"""The differences between the configs of two images: how they are run, and for which platform.

Times, authors and the history are left out, since they differ between any two builds. So are the
fields that only old versions of docker wrote for containers (``Hostname``, ``Image`` …).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from unionmount.images.config import Config

_IGNORED = frozenset(
    {"Hostname", "Domainname", "AttachStdin", "AttachStdout", "AttachStderr", "Image"}
    | {"OpenStdin", "StdinOnce", "Tty", "NetworkDisabled", "MacAddress", "ArgsEscaped"}
)
_SETS = frozenset({"ExposedPorts", "Volumes"})  # objects of which only the keys have a meaning
_ORDER = ("architecture", "os", "variant", "User", "WorkingDir", "Entrypoint", "Cmd", "Shell",
          "Env", "ExposedPorts", "Volumes", "Labels", "StopSignal", "StopTimeout", "Healthcheck",
          "OnBuild")  # fmt: skip


@dataclass(frozen=True, slots=True)
class ConfigDifference:
    """A field that was added (A), changed (C) or deleted (D).

    The name of a variable, label, port or volume follows its field: ``Env.PATH``.
    """

    kind: Literal["A", "C", "D"]
    name: str
    before: Any
    after: Any


def config_differences(before: Config, after: Config) -> list[ConfigDifference]:
    """Return the differences, in the order in which ``inspect`` shows the fields."""
    older, newer = _flat(before), _flat(after)
    found: list[ConfigDifference] = []
    for name in sorted(older.keys() | newer.keys(), key=_place):
        one, other = older.get(name), newer.get(name)
        text = ".".join(filter(None, name))
        if name not in older:
            found.append(ConfigDifference("A", text, None, other))
        elif name not in newer:
            found.append(ConfigDifference("D", text, one, None))
        elif not _is_same(one, other):
            found.append(ConfigDifference("C", text, one, other))
    return found


_Name = tuple[str, str]  # a field, and a name in it


def _place(name: _Name) -> tuple[int, _Name]:
    return _ORDER.index(name[0]) if name[0] in _ORDER else len(_ORDER), name


def _is_same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _flat(config: Config) -> dict[_Name, Any]:
    """Return the fields that are not empty; of Env, labels, ports and volumes each name."""
    platform = config.platform
    flat: dict[_Name, Any] = {}
    for field, value in (
        ("architecture", platform.architecture),
        ("os", platform.os),
        ("variant", platform.variant),
    ):
        if value:
            flat[field, ""] = value
    for field, value in config.runtime.items():
        if field not in _IGNORED and value not in (None, "", [], {}, False):
            flat |= _parts(field, value)
    return flat


def _parts(field: str, value: Any) -> Mapping[_Name, Any]:
    if field == "Env" and isinstance(value, list) and all(isinstance(one, str) for one in value):
        pairs = [one.partition("=") for one in value]
        return {(field, name): text for name, _, text in pairs}
    if field in _SETS and isinstance(value, dict):
        return {(field, name): True for name in value}
    if field == "Labels" and isinstance(value, dict):
        return {(field, name): text for name, text in value.items()}
    return {(field, ""): value}
