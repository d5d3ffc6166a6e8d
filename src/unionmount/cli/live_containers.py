"""Containers that run, for commands: finding them, and cleaning after dead monitors."""

from __future__ import annotations

import re
import select
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from unionmount.errors import MountError, NotFoundError
from unionmount.system.text import printable

_PATIENCE = 60.0  # seconds for a mount to write its changes to the disk

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.runtime.channel import MonitorChannel
    from unionmount.runtime.live import LiveContainers, LiveState
    from unionmount.store.containers import Container


def live_containers() -> LiveContainers:
    """Return the containers of this user that run; those of dead monitors are cleaned away."""
    from unionmount.mounting.records import MountTable
    from unionmount.runtime.live import LiveContainers

    live = LiveContainers(MountTable.of_user().directory)
    if live.names():
        with live.exclusive():
            for name in live.dead():
                with suppress(MountError):
                    _clean_after(live, name)
    return live


def _clean_after(live: LiveContainers, name: str) -> None:
    """Remove what a monitor left that was killed: the container's processes, and its directory."""
    from unionmount.runtime.oci_runtime import Inside, OciRuntime

    state: LiveState | None = None
    with suppress(NotFoundError, MountError):
        state = live.state(name)
    with live.begin_alone(live.path(name)):  # the directory goes at the end
        if state is not None:
            inside = Inside(users=state.pid) if state.rootless else Inside()
            runtime = OciRuntime(state.runtime, live.oci, rootless=state.rootless, inside=inside)
            runtime.delete(name)
            _end_mount(state.mount)


def _end_mount(mount_id: str) -> None:
    """End the mount of a container whose processes have ended, even if others have copies."""
    from unionmount.mounting.records import MountTable, end

    for one in MountTable.of_user().all():
        if one.record.id == mount_id:
            end(one.record, _PATIENCE)


def container_of(settings: Settings, name: str) -> Container:
    """Return a container of the store."""
    from unionmount.cli.container_words import name_of_container
    from unionmount.store.containers import Containers

    return Containers(settings.store()).find(name_of_container(name))


def runs_in(settings: Settings, name: str) -> bool:
    """Return whether a container of the store runs, and not just one of that name in another."""
    from unionmount.cli.container_words import mounts_of
    from unionmount.mounting.records import MountTable

    live = live_containers()
    try:
        mount = live.state(name).mount if live.is_running(name) else ""
    except NotFoundError:  # it is about to start, or has ended
        return False
    mounts = mounts_of(MountTable.of_user(), settings.store_root(), name)
    return any(one.record.id == mount for one in mounts)


def connected(name: str) -> MonitorChannel:
    """Return a connection to the monitor of a container that runs."""
    from unionmount.cli.container_words import name_of_container
    from unionmount.runtime.channel import MonitorChannel

    word = name_of_container(name)
    return MonitorChannel(live_containers().connect(word))


def end(live: LiveContainers, name: str, number: int = signal.SIGKILL) -> None:
    """Send a signal to a container, and wait until it has ended and is cleaned away."""
    from unionmount.cli.container_words import name_of_container
    from unionmount.runtime.channel import MonitorChannel
    from unionmount.runtime.protocol import Kind, encode_number

    with MonitorChannel(live.connect(name_of_container(name))) as channel:
        channel.send(encode_number(Kind.SIGNAL, number))
        wait_for_end(channel)


def wait_for_end(channel: MonitorChannel, until: float | None = None) -> bool:
    """Wait until a monitor closes the connection; return False if it does not by ``until``."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while not channel.ended:
        left = None if until is None else max(0.0, until - time.monotonic()) * 1000
        if not poll.poll(left):
            return False
        for _ in channel.receive():
            pass  # the output is for others
    return True


def signal_number(text: str) -> int:
    """Return the number of a signal by its number or its name, with or without SIG."""
    from unionmount.errors import UsageError

    if text.isdecimal() and 0 < int(text) < signal.NSIG:
        return int(text)
    name = text.upper().removeprefix("SIG")
    if found := signal.Signals.__members__.get(f"SIG{name}"):
        return found.value
    if real := re.fullmatch(r"RTMIN\+(\d{1,2})|RTMAX-(\d{1,2})", name):
        number = signal.SIGRTMIN + int(real[1]) if real[1] else signal.SIGRTMAX - int(real[2])
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    raise UsageError(f"'{printable(text)}' is not a signal; 'kill -l' lists them")
