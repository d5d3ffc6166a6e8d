"""The options of a container that ``bundle`` and ``run`` share, and their values."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import unionmount.cli.declared as click
from unionmount.errors import UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.runtime.assembly import Wanted
    from unionmount.runtime.mounts import Mount

F = TypeVar("F", bound=Callable[..., Any])

_REGISTRY = "an option about registries"
_MAX_ENV_FILE = 4 * 1024 * 1024

_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("-e", "--env"),
        {
            "metavar": "NAME[=VALUE]",
            "multiple": True,
            "help": "Set a variable; without VALUE, take it from here. Repeatable.",
        },
    ),
    (
        ("--env-file",),
        {"metavar": "FILE", "multiple": True, "help": "Set the variables in FILE, one a line."},
    ),
    (("-w", "--workdir"), {"metavar": "DIR", "help": "Start in DIR, which is made if missing."}),
    (
        ("-u", "--user"),
        {"metavar": "USER[:GROUP]", "help": "Run as this user of the image; names or numbers."},
    ),
    (
        ("-v", "--volume"),
        {
            "metavar": "SRC:DST[:ro]",
            "multiple": True,
            "help": "Bind SRC of the host at DST. Repeatable.",
        },
    ),
    (
        ("--tmpfs",),
        {
            "metavar": "DST[:OPT,…]",
            "multiple": True,
            "help": "Mount a file system in memory at DST, with the files that the image has there "
            "unless notmpcopyup is given. Repeatable.",
        },
    ),
    (
        ("--mount",),
        {
            "metavar": "type=TYPE,…",
            "multiple": True,
            "help": "The same in Docker's words: type=bind|tmpfs,source=SRC,target=DST,readonly.",
        },
    ),
    (
        ("--entrypoint",),
        {
            "metavar": "PROGRAM",
            "help": "Run this in place of the image's entrypoint: a word, or a JSON list of words.",
        },
    ),
    (
        ("--network",),
        {
            "type": click.Choice(["host", "none"]),
            "default": "host",
            "show_default": True,
            "help": "The network: that of the host, or none but loopback.",
        },
    ),
    (
        ("-h", "--hostname"),
        {"metavar": "NAME", "help": "Its host name; default: that of the host."},
    ),
    (("--read-only",), {"is_flag": True, "help": "Make the root directory read-only."}),
    (
        ("--cap-add",),
        {"metavar": "CAP", "multiple": True, "help": "Add a capability, or ALL. Repeatable."},
    ),
    (
        ("--cap-drop",),
        {"metavar": "CAP", "multiple": True, "help": "Drop a capability, or ALL. Repeatable."},
    ),
    (("--init",), {"is_flag": True, "help": "Run an init program as the first process."}),
    (
        ("-m", "--memory"),
        {"metavar": "SIZE", "help": "Limit the memory, as 512m; where control groups allow."},
    ),
    (("--cpus",), {"metavar": "N", "help": "Limit the processors that it takes, as 1.5."}),
    (
        ("--pids-limit",),
        {
            "metavar": "N",
            "type": click.IntRange(min=-1),
            "help": "Limit the processes; 0: no limit.",
        },
    ),
    (
        ("--privileged",),
        {"is_flag": True, "help": "Give all capabilities, and hide nothing of /proc and /sys."},
    ),
)


def container_options(function: F) -> F:
    """Add the options."""
    for names, attributes in reversed(_OPTIONS):
        function = click.option(*names, **attributes)(function)
    return function


def refuse_others(given: Mapping[str, Any], taken: Iterable[str], reason: str) -> None:
    """Raise UsageError if an option was given that is not among those ``taken``.

    ``given`` has the values of the command line by the names of parameters.
    """
    from unionmount.cli.options import RegistryOptions

    defaults = {"network": "host", "pull": "missing", "registry": RegistryOptions()}
    for name, value in given.items():
        is_given = value is not None and value is not False and value != ()
        if is_given and value != defaults.get(name) and name not in taken:
            option = _REGISTRY if name == "registry" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {reason}")


def wanted_container(command: Sequence[str], given: dict[str, Any]) -> Wanted:
    """Return the values of the options, taken out of ``given``."""
    from unionmount.runtime.assembly import Wanted
    from unionmount.runtime.limits import parse_limits
    from unionmount.runtime.parameters import Changes

    changes = Changes(
        entrypoint=_entrypoint(given.pop("entrypoint")),
        command=tuple(command),
        env=(*env_files(given.pop("env_file")), *map_env(given.pop("env"))),
        user=given.pop("user"),
        working_dir=given.pop("workdir"),
    )
    mounts = [
        *map(bind_of, given.pop("volume")),
        *map(tmpfs_of, given.pop("tmpfs")),
        *map(mount_of, given.pop("mount")),
    ]
    return Wanted(
        changes=changes,
        network=given.pop("network"),
        hostname=given.pop("hostname") or "",
        read_only=given.pop("read_only"),
        privileged=given.pop("privileged"),
        cap_add=given.pop("cap_add"),
        cap_drop=given.pop("cap_drop"),
        mounts=_distinct(mounts),
        init=given.pop("init"),
        limits=parse_limits(given.pop("memory"), given.pop("cpus"), given.pop("pids_limit")),
    )


def _distinct(mounts: list[Mount]) -> tuple[Mount, ...]:
    seen: set[str] = set()
    for mount in mounts:
        if mount.destination in seen:
            raise UsageError(f"two mounts at {printable(mount.destination)}; choose one")
        seen.add(mount.destination)
    return tuple(mounts)


def _entrypoint(text: str | None) -> tuple[str, ...] | None:
    """Return the words of ``--entrypoint``: one, or a JSON list of several; none if it is empty."""
    import json

    if text is None:
        return None
    if not text.startswith("["):
        return (text,) if text else ()
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UsageError(f"--entrypoint {printable(text)}: not a JSON list of strings")
    return tuple(words)


def map_env(pairs: Sequence[str]) -> list[str]:
    """Return NAME=VALUE pairs; a name alone has the value that it has here, if it has one.

    ``NAME*`` stands for all variables that begin so, as in podman.
    """
    return [found for pair in pairs for found in _mapped(pair, f"--env {printable(pair)}")]


def _mapped(pair: str, what: str) -> list[str]:
    name, equals, _ = pair.partition("=")
    if not name or "\0" in pair:
        raise UsageError(f"{what}: not NAME=VALUE")
    if equals:
        return [pair]
    here = os.environ
    if name.endswith("*"):
        return [f"{one}={here[one]}" for one in here if one.startswith(name[:-1])]
    return [f"{name}={here[name]}"] if name in here else []


def env_files(paths: Sequence[str]) -> list[str]:
    """Return the pairs of files, read as podman does: values are neither quoted nor trimmed."""
    from unionmount.system.files import read_document

    found = []
    for path in paths:
        text = os.fsdecode(read_document(Path(path), _MAX_ENV_FILE, os.environ))
        for number, line in enumerate(text.split("\n"), 1):
            pair = line.removesuffix("\r").lstrip(" \t")
            if pair and not pair.startswith("#"):
                what = f"--env-file {printable(path)}, line {number}: {printable(pair)}"
                found += _mapped(pair, what)
    return found


# ---- mounts --------------------------------------------------------------------------------------

_BIND_OPTIONS = frozenset({"ro", "rw", "rbind", "bind", "dev", "nodev", "exec", "noexec", "suid"})
_BIND_OPTIONS |= {"nosuid", "private", "rprivate", "shared", "rshared", "slave", "rslave"}
_LABELS = frozenset({"z", "Z"})


def bind_of(text: str) -> Mount:
    """Return the bind mount of ``SRC:DST[:OPT,…]``."""
    parts = text.split(":")
    if len(parts) not in (2, 3):
        colon = "; a path with a colon needs --mount" if len(parts) > 3 else ""
        raise UsageError(f"--volume {printable(text)}: write SRC:DST or SRC:DST:ro{colon}")
    options = parts[2].split(",") if len(parts) > 2 else []
    return _bind(f"--volume {printable(text)}", parts[0], parts[1], options)


def _bind(option: str, source: str, destination: str, options: Sequence[str]) -> Mount:
    from unionmount.runtime.mounts import bind

    for one in options:
        if one in _LABELS:
            raise UsageError(f"{option}: '{one}' would relabel files for SELinux; use chcon(1)")
        if one not in _BIND_OPTIONS:
            colon = "; a path with a colon needs --mount" if "/" in one else ""
            raise UsageError(
                f"{option}: '{printable(one)}' is not an option of a bind mount{colon}"
            )
    if not source.startswith(("/", ".")):
        raise UsageError(f"{option}: there are no named volumes; write ./{printable(source)}")
    try:
        os.stat(source)  # noqa: PTH116
        real = os.path.realpath(source)  # the working directory may be gone
    except OSError as error:
        raise UsageError(f"{option}: {printable(source)}: {error.strerror}") from None
    return bind(real, _destination(option, destination), *options)


def tmpfs_of(text: str) -> Mount:
    """Return the mount of ``DST[:OPT,…]``."""
    destination, _, options = text.partition(":")
    words = tuple(one for one in options.split(",") if one)
    return _tmpfs(f"--tmpfs {printable(text)}", destination, words)


def _tmpfs(option: str, destination: str, options: tuple[str, ...]) -> Mount:
    from unionmount.runtime.mounts import Mount

    base = [one for one in ("nosuid", "nodev", "noexec") if one.removeprefix("no") not in options]
    where = _destination(option, destination)
    access = () if "ro" in options else ("rw",)
    copied = () if "notmpcopyup" in options else ("tmpcopyup",)  # what the image has there
    options = tuple(one for one in options if one not in ("tmpcopyup", "notmpcopyup"))
    return Mount(where, "tmpfs", "tmpfs", ("rprivate", *access, *base, *options, *copied))


def mount_of(text: str) -> Mount:
    """Return the mount of Docker's ``--mount``."""
    option = f"--mount {printable(text)}"
    fields: dict[str, str] = {}
    for word in _comma_separated(option, text):
        name, _, value = word.partition("=")
        name = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}.get(
            name, name
        )
        if name in fields:
            raise UsageError(f"{option}: '{name}' is there twice")
        fields[name] = value
    kind = fields.pop("type", "")
    if kind == "bind":
        return _mount_bind(option, fields)
    if kind == "tmpfs":
        return _mount_tmpfs(option, fields)
    raise UsageError(f"{option}: type '{printable(kind)}' is not offered; use bind or tmpfs")


def _comma_separated(option: str, text: str) -> list[str]:
    """Return the fields of a line of CSV: those with a comma are quoted."""
    import csv

    try:
        (words,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):
        raise UsageError(f'{option}: write a field with a comma as "source=/a,b"') from None
    return words


def _mount_bind(option: str, fields: dict[str, str]) -> Mount:
    source, target = fields.pop("source", ""), fields.pop("target", "")
    options = []
    read_only = fields.pop("readonly", None)
    if read_only in ("", "true", "1"):
        options.append("ro")
    elif read_only not in (None, "false", "0"):
        raise UsageError(f"{option}: readonly is true or false")
    if propagation := fields.pop("bind-propagation", ""):
        options.append(propagation)
    _check_rest(option, fields)
    return _bind(option, source, target, options)


def _mount_tmpfs(option: str, fields: dict[str, str]) -> Mount:
    target = fields.pop("target", "")
    options = [
        f"{name}={value}" for name in ("size", "mode") if (value := fields.pop(f"tmpfs-{name}", ""))
    ]
    _check_rest(option, fields)
    return _tmpfs(option, target, tuple(options))


def _check_rest(option: str, fields: dict[str, str]) -> None:
    if fields:
        raise UsageError(f"{option}: '{printable(next(iter(fields)))}' is not offered")


def _destination(option: str, path: str) -> str:
    normal = os.path.normpath(path)
    if not path.startswith("/") or normal in ("/", "//"):
        raise UsageError(f"{option}: '{printable(path)}' is not an absolute path below /")
    return normal.replace("//", "/", 1) if normal.startswith("//") else normal
