"""A link to a distant server: each connection has a rate and a round trip of its own.

It forwards connections on loopback. What it lacks of a real network is loss, and the slow start of
TCP, so that a connection has its rate at once.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from contextlib import suppress

from support.servers.listening import ListeningServer

_STEP = 16 * 1024
_BURST = 0.01  # seconds of its rate that a connection may catch up, when a sleep was too long
_WINDOW = 64  # steps on the way; with these, 30 ms at 100 Mbit/s are never the limit
_PATIENCE = 120.0

_Sent = tuple[float, bytes]


class DistantLink(ListeningServer):
    """Forwards connections to ``upstream`` (``host:port``), with delay and rate.

    ``rate`` is bytes per second of what the server sends, for each connection; ``round_trip`` is in
    seconds, and is also what a new connection waits.
    """

    def __init__(self, upstream: str, rate: float, round_trip: float) -> None:
        super().__init__("127.0.0.1", _PATIENCE)
        host, _, port = upstream.rpartition(":")
        self._upstream = host, int(port)
        self._rate = rate
        self._round_trip = round_trip

    def serve(self, connection: socket.socket) -> None:
        """Forward one connection until both sides have ended."""
        time.sleep(self._round_trip)
        with socket.create_connection(self._upstream, _PATIENCE) as server:
            asking = threading.Thread(target=_forward, args=(connection, server), daemon=True)
            asking.start()
            under_way: queue.Queue[_Sent | None] = queue.Queue(_WINDOW)
            arriving = threading.Thread(target=_arrive, args=(under_way, connection), daemon=True)
            arriving.start()
            with suppress(OSError):
                self._send(server, under_way)
            under_way.put(None)
            arriving.join()
            for one in (connection, server):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            asking.join()

    def _send(self, server: socket.socket, under_way: queue.Queue[_Sent | None]) -> None:
        """Take bytes at the rate, and note when each piece arrives."""
        free = 0.0  # when the next piece may be sent
        while data := server.recv(_STEP):
            now = time.monotonic()
            free = max(free, now - _BURST) + len(data) / self._rate
            under_way.put((max(free, now) + self._round_trip, data))
            time.sleep(max(0.0, free - now))


def _forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_STEP):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _arrive(under_way: queue.Queue[_Sent | None], target: socket.socket) -> None:
    """Hand pieces on when their time has come; those after the end of the target are dropped."""
    gone = False
    while (piece := under_way.get()) is not None:
        due, data = piece
        if not gone:
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                target.sendall(data)
            except OSError:
                gone = True
