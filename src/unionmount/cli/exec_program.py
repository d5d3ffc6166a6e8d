"""``exec``: another program in a container that runs."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unionmount.errors import MountError, UsageError

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.runtime.live import LiveContainers, LiveState
    from unionmount.runtime.oci_runtime import OciRuntime

_MAX_CONFIG = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """A program to run in a container, and how this process takes part in it."""

    name: str
    words: tuple[str, ...]
    env: tuple[str, ...]
    workdir: str | None
    user: str | None
    terminal: bool
    interactive: bool
    detach: bool


def exec_program(settings: Settings, request: ExecRequest) -> int:
    """Run the program, and return its exit status; RuntimeFailed if it was not started."""
    from unionmount.cli.live_containers import live_containers
    from unionmount.runtime.bundle import as_json
    from unionmount.system.files import write_all

    if request.terminal and not os.isatty(0):
        raise UsageError("--tty: standard input is not a terminal; leave --tty out")
    live = live_containers(settings)
    state = live.state(request.name)
    process = _process(settings, request, live.bundle(request.name) / "config.json")
    described = os.memfd_create("process.json", os.MFD_CLOEXEC)
    try:
        write_all(described, as_json(process))
        sys.stdout.flush()
        return _runtime(live, state).exec(
            live.id(request.name),
            described,
            detach=request.detach,
            terminal=request.terminal,
            reads=request.interactive,
        )
    finally:
        os.close(described)


def _runtime(live: LiveContainers, state: LiveState) -> OciRuntime:
    from unionmount.runtime.oci_runtime import Inside, OciRuntime

    inside = Inside(state.monitor, state.monitor) if state.rootless else Inside()
    return OciRuntime(state.runtime, live.oci, rootless=state.rootless, inside=inside)


def _process(settings: Settings, request: ExecRequest, config: Path) -> dict[str, Any]:
    """Return the description of the program: that of the first process, with changes."""
    from unionmount.runtime.parameters import merged_env

    try:
        with config.open("rb") as file:
            process: dict[str, Any] = json.loads(file.read(_MAX_CONFIG))["process"]
    except (OSError, ValueError, KeyError):
        raise MountError(f"{config}: missing or damaged; stop the container") from None
    process |= {"args": list(request.words), "terminal": request.terminal}
    process.pop("consoleSize", None)
    if request.terminal:
        size = os.get_terminal_size(0)
        process["consoleSize"] = {"height": size.lines, "width": size.columns}
    if request.workdir is not None:
        process["cwd"] = request.workdir
    if request.user is not None:
        process = _as_user(settings, request.name, process, request.user)
    process["env"] = list(merged_env(process["env"], request.env))
    return process


def _as_user(settings: Settings, name: str, process: dict[str, Any], user: str) -> dict[str, Any]:
    """Return the description for another user, whose HOME is that of the container if it has one.

    The image or the options of the container may set HOME; otherwise it follows from the user.
    """
    from unionmount.browse.open import open_container
    from unionmount.cli.live_containers import container_of
    from unionmount.runtime.assembly import user_of
    from unionmount.runtime.parameters import ImageParameters, merged_env
    from unionmount.runtime.run_record import record_of
    from unionmount.runtime.spec import as_user

    container = container_of(settings, name)
    with open_container(settings.store(), container) as opened:
        process = as_user(process, user_of(opened.view, user))
        image = ImageParameters.of(opened.image.image.config, container.image.name)
    set_there = (*image.env, *record_of(container.path, name).wanted.changes.env)
    homes = [pair for pair in set_there if pair.startswith("HOME=")]
    return process | {"env": list(merged_env(process["env"], homes))}
