"""Execution parameters: those of an image's config, and the changes of a command line.

The conversion follows the image specification, ``conversion.md``; docs/explanation/running.md has
the table.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from unionmount.errors import UsageError
from unionmount.images.json_fields import Fields
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.images.config import Config

_MAX_WORDS = 65536
PREFIX = "org.opencontainers.image."
"""The prefix of annotations that describe the image, which are orders to nobody."""
# Annotations that runtimes, engines and their plugins obey. Those of crun could replace the seccomp
# filter, or write to a file of the host; an image must not set them with a label. Each is the whole
# domain of a program, so that its next version has no others.
_OBEYED = (
    *("run.oci.", "krun.", "module.wasm.", "io.crun."),  # crun
    *("org.systemd.", "org.criu.", "org.opencontainers.runc.", "io.youki."),  # runc, youki
    *("io.kata-containers.", "io.katacontainers.", "io.confidentialcontainers."),  # Kata
    *("com.github.containers.", "com.github.", "com.intel."),  # Kata, virtcontainers
    *("dev.gvisor.", "aws.firecracker.", "com.urunc.", "enclave.runtime.", "org.nanovms."),
    *("org.linuxcontainers.", "org.freebsd.", "io.microsoft.", "com.nvidia.", "io.nestybox."),
    *("io.kubernetes.", "io.k8s.", "io.container.", "io.containers.", "io.containerd."),
    *("io.cri-containerd", "io.cri-o.", "io.podman.", "io.balena."),
)


@dataclass(frozen=True, slots=True)
class ImageParameters:
    """The execution parameters in an image's config; empty where it says nothing."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config, what: str) -> ImageParameters:
        """Return the parameters of a config, checked; ``what`` names it in messages."""
        fields = Fields(dict(config.runtime), f"{what}: config")
        return cls(
            entrypoint=tuple(fields.strings("Entrypoint", _MAX_WORDS)),
            cmd=tuple(fields.strings("Cmd", _MAX_WORDS)),
            env=tuple(_checked_env(fields)),
            user=fields.string("User", ""),
            working_dir=fields.string("WorkingDir", ""),
            stop_signal=fields.string("StopSignal", ""),
            volumes=tuple(map(_absolute, sorted(fields.object("Volumes", optional=True).values))),
            annotations=_annotations(config, fields),
        )


@dataclass(frozen=True, slots=True)
class Changes:
    """The parameters of a command line; None and empty where it says nothing."""

    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()  # NAME=VALUE
    user: str | None = None
    working_dir: str | None = None


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a process: what it runs, as whom, and where."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    user: str
    cwd: str
    annotations: Mapping[str, str]
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""


def combined(image: ImageParameters, changes: Changes, what: str) -> Parameters:
    """Return the parameters of a container; UsageError if they name no program.

    A new entrypoint drops the image's Cmd, as in Docker.
    """
    if changes.entrypoint is None:
        entrypoint, cmd = image.entrypoint, changes.command or image.cmd
    else:
        entrypoint, cmd = changes.entrypoint, changes.command
    args = (*entrypoint, *cmd)
    if not args:
        raise UsageError(f"{what} names no program to run; give a COMMAND")
    if any("\0" in word for word in args):
        raise UsageError(f"{what}: an argument of the program contains a null byte")
    cwd = image.working_dir if changes.working_dir is None else changes.working_dir
    return Parameters(
        args=args,
        env=merged_env(image.env, changes.env),
        user=image.user if changes.user is None else changes.user,
        cwd=_absolute(cwd),
        annotations=image.annotations,
        volumes=image.volumes,
        stop_signal=image.stop_signal,
    )


def without_labels(parameters: Parameters) -> Parameters:
    """Return the parameters for a runtime that may obey annotations which nobody here knows.

    Those that describe the image stay.
    """
    kept = {name: text for name, text in parameters.annotations.items() if name.startswith(PREFIX)}
    return replace(parameters, annotations=kept)


def merged_env(*parts: Sequence[str]) -> tuple[str, ...]:
    """Return NAME=VALUE pairs in their order; a later value takes the place of an earlier one."""
    found: dict[str, str] = {}
    for part in parts:
        for pair in part:
            found[pair.partition("=")[0]] = pair
    return tuple(found.values())


def _absolute(text: str) -> str:
    """Return a directory as an absolute path of the container; a relative one begins at /."""
    if "\0" in text:
        raise UsageError(f"directory '{printable(text)}' of the container contains a null byte")
    return posixpath.normpath("/" + text.lstrip("/")) if text else "/"


def _checked_env(fields: Fields) -> list[str]:
    """Return the variables as NAME=VALUE; a name alone has the empty value."""
    found = fields.strings("Env", _MAX_WORDS)
    for pair in found:
        if "\0" in pair or not pair.partition("=")[0]:
            raise fields.error("Env", f"'{printable(pair)}' is not NAME=VALUE")
    return [pair if "=" in pair else f"{pair}=" for pair in found]


def _annotations(config: Config, fields: Fields) -> dict[str, str]:
    """Return the annotations of the conversion; labels are among them, and win."""
    signal = fields.string("StopSignal", "")
    ports = ",".join(sorted(fields.object("ExposedPorts", optional=True).values))
    facts = {
        "os": config.platform.os,
        "architecture": config.platform.architecture,
        "variant": config.platform.variant,
        "author": config.author,
        "created": config.created,
        "stopSignal": signal,
        "exposedPorts": ports,
    }
    return {PREFIX + name: value for name, value in facts.items() if value} | _labels(fields)


def _labels(fields: Fields) -> dict[str, Any]:
    """Return the labels, except those that would be orders to a runtime."""
    labels = fields.object("Labels", optional=True)
    named = {name: labels.string(name) for name in labels.values}
    return {name: text for name, text in named.items() if not is_order(name)}


def is_order(name: str) -> bool:
    """Return whether a program may obey an annotation of this name, rather than note it.

    ``bundle`` is how runc notes the bundle of a container, and finds it again. A name with a slash
    is one of Kubernetes (``cdi.k8s.io/…``), which plugins obey.
    """
    lower = name.lower()
    return lower.startswith(_OBEYED) or lower == "bundle" or "/" in lower
