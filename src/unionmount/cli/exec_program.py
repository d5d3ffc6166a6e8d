"""``exec``: another program in a container that runs."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
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
        if not request.interactive and not request.terminal:
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            os.dup2(null, 0)
        sys.stdout.flush()
        runtime = _runtime(live, state)
        streams = {"detach": request.detach, "terminal": request.terminal}
        return runtime.exec(live.id(request.name), described, **streams)
    finally:
        os.close(described)


def _runtime(live: LiveContainers, state: LiveState) -> OciRuntime:
    from unionmount.runtime.oci_runtime import Inside, OciRuntime

    inside = Inside(state.monitor, state.monitor) if state.rootless else Inside()
    return OciRuntime(state.runtime, live.oci, rootless=state.rootless, inside=inside)


def _process(settings: Settings, request: ExecRequest, config: Any) -> dict[str, Any]:
    """Return the description of the program: that of the first process, with changes."""
    from unionmount.browse.open import open_container
    from unionmount.cli.live_containers import container_of
    from unionmount.runtime.assembly import user_of
    from unionmount.runtime.parameters import merged_env
    from unionmount.runtime.spec import as_user

    try:
        with config.open("rb") as file:
            process: dict[str, Any] = json.loads(file.read(_MAX_CONFIG))["process"]
    except (OSError, ValueError, KeyError):
        raise MountError(f"{config}: missing or damaged; stop the container") from None
    process |= {"args": list(request.words), "terminal": request.terminal}
    process["env"] = list(merged_env(process["env"], request.env))
    process.pop("consoleSize", None)
    if request.terminal:
        size = os.get_terminal_size(0)
        process["consoleSize"] = {"height": size.lines, "width": size.columns}
    if request.workdir is not None:
        process["cwd"] = request.workdir
    if request.user is not None:
        with open_container(settings.store(), container_of(settings, request.name)) as opened:
            process = as_user(process, user_of(opened.view, request.user))
    return process
