"""What ``pull`` shows on a terminal: what it found out, and bars that tell when nothing arrives."""

from __future__ import annotations

import re
from pathlib import Path
from threading import Event

import pytest
from support.mounting import COMMAND, own_places
from support.servers import FaultProxy
from support.servers.proxy import Stall
from support.terminal import Terminal
from support.transfers import Sender, image, layer

from unionmount.cli.progress import Speed

_BASE = layer("shown-base", 30_000)
_TOP = layer("shown-top", 3_000_000)


def test_the_speed_falls_when_nothing_arrives() -> None:
    speed = Speed()
    assert speed.at(0.0) == 0.0
    for second in range(20):
        speed.add(float(second), second * 1000)
    assert speed.at(19.0) == pytest.approx(1000)
    falling = [speed.at(19.0 + second) for second in (1, 2, 3, 4)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 400
    assert speed.at(24.5) == 0.0
    speed.add(25.0, 25_000)
    assert speed.at(25.0) > 0


def test_a_short_time_counts_as_it_is() -> None:
    speed = Speed()
    speed.add(0.0, 0)
    speed.add(1.0, 5000)
    assert speed.at(1.0) == pytest.approx(5000)
    assert speed.at(2.0) == pytest.approx(2500)


@pytest.mark.needs("docker-registry", "skopeo")
def test_pull_tells_what_it_does(proxy: FaultProxy, sender: Sender, tmp_path: Path) -> None:
    base = sender.send(image(_BASE), proxy, "shown/base:1")
    name = sender.send(image(_BASE, _TOP), proxy, "shown/all:1")
    places = own_places(tmp_path) | {"TERM": "xterm", "COLUMNS": "100", "HOME": str(tmp_path)}

    def pull(name: str) -> Terminal:
        return Terminal([*COMMAND, "pull", "--tls-verify=false", name], places)

    first = pull(base)
    try:
        assert first.wait() == 0
    finally:
        first.close()
    stall = Stall(1_000_000, Event())
    proxy.fault(stall, kind="blob", method="GET", times=1)
    second = pull(name)
    try:
        second.read_to(f"Resolving {name}".encode())
        second.read_to(f"Asking for {name}".encode())
        second.read_to(b": already here")
        plan = second.read_to(b" in 1 layer\r\n").decode()
        assert re.search(
            r"all:1: [0-9a-f]{12} for linux/amd64, fetching 3(\.[0-9]+)?MB$", plan[:-13]
        )
        second.read_to(b"stalled")
        stall.released.set()
        assert second.wait() == 0
    finally:
        stall.released.set()
        second.close()
    third = pull(name)
    try:
        third.read_to(b"all layers are here")
        assert third.wait() == 0
    finally:
        third.close()
