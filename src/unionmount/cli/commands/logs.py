"""``unionmount logs``."""

from __future__ import annotations

import os
import re
import select
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.live_containers import container_of, live_containers
from unionmount.cli.options import root_option
from unionmount.errors import NotFoundError, UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.runtime.log_file import LogLine, LogReader

_PAUSE = 100  # milliseconds between two looks at a log that is followed
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_AGE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(h|ms|m|s)")
_SECONDS = re.compile(r"[0-9]{1,11}(\.[0-9]{1,9})?")


@click.command("logs")
@click.option("-f", "--follow", is_flag=True, help="Go on until the container has ended.")
@click.option("-t", "--timestamps", is_flag=True, help="Print the time of each line.")
@click.option(
    "-n",
    "--tail",
    "last",
    metavar="N|all",
    help="Print the last N lines only.",
)
@click.option("--since", metavar="TIME", help="Leave out what was printed before.")
@click.option("--until", metavar="TIME", help="Leave out what was printed later.")
@root_option
@click.argument("name", metavar="CONTAINER")
@click.pass_obj
def command(
    settings: Settings,
    name: str,
    follow: bool,
    timestamps: bool,
    last: str | None,
    since: str | None,
    until: str | None,
) -> None:
    """Print the output of a container's last run, to the stream that it was written to.

    TIME is an age such as 10m or 1h30m, a date such as 2024-05-31T12:00 (here; 2024-05-31T12:00Z in
    UTC), or seconds since 1970.
    """
    from collections import deque

    from unionmount.runtime.log_file import LogReader
    from unionmount.runtime.run_record import LOG, record_of

    count = _count(last)
    begin, end = _moment("--since", since), _moment("--until", until)
    container = container_of(settings, name)
    record_of(container.path, name)

    def wanted(lines: Iterator[LogLine]) -> Iterator[LogLine]:
        return (line for line in lines if _is_between(begin, line, end))

    with LogReader(container.path / LOG) as log:
        first = wanted(log.lines())
        for line in first if count is None else deque(first, count):
            _show(line, timestamps=timestamps)
        if follow:
            for line in wanted(_following(settings, log, container.name)):
                _show(line, timestamps=timestamps)


def _following(settings: Settings, log: LogReader, name: str) -> Iterator[LogLine]:
    """Yield what is written to a log until the container has ended."""
    live = live_containers(settings)
    try:
        monitor = os.pidfd_open(live.state(name).monitor)
    except (NotFoundError, ProcessLookupError):
        yield from log.lines()
        return
    try:
        poll = select.poll()
        poll.register(monitor, select.POLLIN)
        ended = not live.is_running(name)  # the number may be that of another process by now
        while not ended:
            ended = bool(poll.poll(_PAUSE))
            yield from log.lines()
    finally:
        os.close(monitor)


def _show(line: LogLine, *, timestamps: bool) -> None:
    from unionmount.system.files import write_all

    stamp = f"{line.time} ".encode() if timestamps else b""
    write_all(2 if line.stream == "stderr" else 1, stamp + line.text)


def _is_between(begin: datetime | None, line: LogLine, end: datetime | None) -> bool:
    if begin is None and end is None:
        return True
    try:
        at = datetime.fromisoformat(line.time).astimezone(UTC)
    except ValueError:
        return False
    return (begin is None or begin <= at) and (end is None or at <= end)


def _count(text: str | None) -> int | None:
    """Return a number of lines; None for all."""
    if text in (None, "all", "-1"):
        return None
    if not re.fullmatch("[0-9]{1,9}", text or ""):
        raise UsageError(f"--tail {printable(text or '')}: write a number of lines, or all")
    return int(text or 0)


def _moment(option: str, text: str | None) -> datetime | None:
    """Return the time of Docker's words for it: an age, seconds since 1970, or a date."""
    if text is None:
        return None
    try:
        if _SECONDS.fullmatch(text):
            return datetime.fromtimestamp(float(text), UTC)
        if "".join(f"{number}{unit}" for number, unit in _AGE.findall(text)) == text and text:
            age = sum(float(number) * _UNITS[unit] for number, unit in _AGE.findall(text))
            return datetime.now(UTC) - timedelta(seconds=age)
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{option} {printable(text)}: write an age such as 10m, a date such as "
            "2024-05-31T12:00, or seconds since 1970"
        ) from None
