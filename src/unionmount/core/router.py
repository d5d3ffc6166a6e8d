"""The threads that answer the kernel, and their counters."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from typing import Any

from unionmount._core import ffi, lib
from unionmount.core.handle import Owner, check
from unionmount.core.id_maps import IdMaps
from unionmount.core.tree import Tree
from unionmount.core.upper import Upper

FOREVER = float(lib.UM_FOREVER)  # seconds; libfuse and the kernel clamp times that they can't hold


@dataclass(frozen=True, slots=True)
class RouterFacts:
    """The facts about the file system for the fast path (``struct um_fastpath_setup``)."""

    layers: tuple[str, ...]
    bytes: int
    inodes: int
    has_acls: bool
    obeys_acls: bool
    list_layers: bool
    directory: int | None  # a descriptor on the file system that answers statfs
    ids: IdMaps
    keeps: float = FOREVER  # seconds for which the kernel may keep names and attributes
    static_nlink: bool = False
    xattrs: bool = True
    passthrough: bool = False  # the kernel reads and writes files of the upper itself


@dataclass(frozen=True, slots=True)
class RouterStats:
    """The counters of a router by opcode of the FUSE protocol (``struct um_router_stats``)."""

    fast: dict[int, int]
    forwarded: dict[int, int]
    times: dict[int, list[int]]  # histograms of durations; see ``time_of_bucket``
    totals: dict[str, int]


_TOTALS = (
    *("bytes_read", "bytes_written", "copy_ups", "notifications", "waits", "sleeps", "failed"),
    *("in_flight", "threads", "queues", "held"),
)


class Router(Owner):
    """Threads in C between the kernel and pyfuse3, which answer all that the tree or upper can.

    The router takes over ``device``, a connected descriptor of /dev/fuse. ``slow`` is the end of
    the socket that pyfuse3 serves; it belongs to the caller. ``ended`` is readable once the mount
    is gone; it belongs to the router. Tree and upper must outlive the router. With ``queues``, one
    for each possible processor, requests come through io_uring.
    """

    def __init__(
        self,
        files: Tree | Upper,
        facts: RouterFacts,
        device: int,
        *,
        threads: int,
        spin_ns: int,
        queues: int = 0,
    ) -> None:
        self._fastpath: Any = None
        self._files, self._ids = files, facts.ids  # borrowed by the fast path
        try:
            self._fastpath = _open_fastpath(files, facts, device, io_uring=queues > 0)
        except BaseException:
            os.close(device)
            raise
        setup = ffi.new("struct um_router_setup *")
        setup.fastpath, setup.device = self._fastpath, device
        setup.threads, setup.spin = min(threads, lib.UM_ROUTER_MAX_THREADS), spin_ns
        setup.queues = queues
        out, slow = ffi.new("struct um_router **"), ffi.new("int *")
        code = lib.um_router_open(setup, out, slow)
        if code < 0:
            self.close()
            check(code)
        self._handle = out[0]
        self.slow: int = slow[0]
        self.ended: int = lib.um_router_ended(out[0])

    def start(self) -> None:
        """Start answering."""
        check(lib.um_router_start(self._handle))

    def try_passthrough(self, fd: int) -> None:
        """Register a file of the upper's disk with the kernel, and free it again.

        Raises OSError: EPERM before the kernel has begun to talk to the router or without the
        right to do so, EOPNOTSUPP, ELOOP, … (``um_fastpath_try_passthrough``).
        """
        check(lib.um_fastpath_try_passthrough(self._fastpath, fd))

    @property
    def refused(self) -> int:
        """The errno for which the kernel did not accept the queues of io_uring; 0 if it has."""
        return -int(lib.um_router_refused(self._handle))

    def close(self) -> None:
        """Stop all threads and close the connection."""
        super().close()
        fastpath, self._fastpath = self._fastpath, None
        if fastpath is not None:
            lib.um_fastpath_close(fastpath)

    def _release(self, handle: Any) -> None:
        lib.um_router_close(handle)

    def stats(self) -> RouterStats:
        """Return the counters since the start."""
        c_stats = ffi.new("struct um_router_stats *")
        lib.um_router_get_stats(self._handle, c_stats)
        opcodes = range(lib.UM_OPCODES)
        times = {code: ffi.unpack(c_stats.times[code], lib.UM_TIMES) for code in opcodes}
        return RouterStats(
            fast={code: n for code in opcodes if (n := c_stats.fast[code])},
            forwarded={code: n for code in opcodes if (n := c_stats.forwarded[code])},
            times={code: row for code, row in times.items() if any(row)},
            totals={name: getattr(c_stats, name) for name in _TOTALS},
        )


def _open_fastpath(files: Tree | Upper, facts: RouterFacts, device: int, *, io_uring: bool) -> Any:
    setup = ffi.new("struct um_fastpath_setup *")
    if isinstance(files, Upper):
        setup.tree, setup.upper = files.tree._handle, files._handle
    else:
        setup.tree = files._handle
    names = [ffi.new("char[]", os.fsencode(name)) for name in facts.layers]
    array = ffi.new("char *[]", names)
    setup.layers, setup.n_layers = ffi.cast("const char **", array), len(names)
    setup.statfs_fd = -1 if facts.directory is None else facts.directory
    setup.bytes, setup.inodes = facts.bytes, facts.inodes
    setup.has_acls, setup.obeys_acls = facts.has_acls, facts.obeys_acls
    setup.list_layers = facts.list_layers
    setup.max_open_files = _held_files()
    setup.ids = facts.ids.handle
    setup.keeps, setup.keeps_nsec = divmod(round(facts.keeps * 1e9), 10**9)
    setup.io_uring = io_uring
    setup.static_nlink, setup.no_xattrs = facts.static_nlink, not facts.xattrs
    setup.passthrough, setup.device = facts.passthrough, device
    out = ffi.new("struct um_fastpath **")
    check(lib.um_fastpath_open(setup, out))
    return out[0]


def probe_io_uring() -> int:
    """Return 0 if this process can use io_uring, or the errno of io_uring_setup(2)."""
    return -int(lib.um_uring_probe())


def _held_files() -> int:
    """Return how many files may be held open: a part of this process's limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(1024, soft // 4)) if soft > 0 else 1024


def time_of_bucket(bucket: int) -> int:
    """Return the lower bound of a bucket of ``RouterStats.times`` in nanoseconds."""
    if bucket < 4:
        return bucket
    return (4 + bucket % 4 << bucket // 4) // 4
