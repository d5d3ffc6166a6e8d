"""The C core as context managers; no other package imports the compiled module.

Calls into C release the GIL. Paths and names inside the file system are ``bytes``. The headers in
csrc are the contracts: ``index/builder.h``, ``index/index.h``, ``tree/tree.h``, ``upper/upper.h``,
``router/router.h``.
"""

from __future__ import annotations

from unionmount.core.handle import MEMORY_VARIABLE
from unionmount.core.id_maps import NO_ID, IdMaps
from unionmount.core.index import (
    Index,
    Indexer,
    IndexInfo,
    IndexLimits,
    open_beneath,
    open_within,
    private_directory,
    stored_name,
)
from unionmount.core.libraries import keep_libraries
from unionmount.core.members import PlainMembers
from unionmount.core.nodes import NAME_MAX, ROOT, Attributes, BrowsableTree, DirectoryEntry, Node
from unionmount.core.router import (
    FOREVER,
    Router,
    RouterFacts,
    RouterStats,
    probe_io_uring,
    time_of_bucket,
)
from unionmount.core.search import (
    COLORS,
    RECORD_COUNT,
    RECORD_FILE,
    Cancellation,
    SearchBatch,
    Searcher,
    SearchEvent,
    SearchFlags,
    SearchRecord,
    SearchSetup,
    SearchWalk,
    search_records,
)
from unionmount.core.spelling import matches, opaque_name, whiteout_name
from unionmount.core.tree import (
    Belief,
    BrokenLink,
    Change,
    DirectoryLayer,
    LayerSummary,
    PathFloor,
    PathVersion,
    PathVersions,
    Summary,
    Tree,
    TreeLayer,
)
from unionmount.core.unstacked import OPAQUE, LayerTrees, Marks
from unionmount.core.upper import Maker, SetAttr, Upper, UpperFlags, UpperList, View

__all__ = [
    "COLORS",
    "FOREVER",
    "MEMORY_VARIABLE",
    "NAME_MAX",
    "NO_ID",
    "OPAQUE",
    "RECORD_COUNT",
    "RECORD_FILE",
    "ROOT",
    "Attributes",
    "Belief",
    "BrokenLink",
    "BrowsableTree",
    "Cancellation",
    "Change",
    "DirectoryEntry",
    "DirectoryLayer",
    "IdMaps",
    "Index",
    "IndexInfo",
    "IndexLimits",
    "Indexer",
    "LayerSummary",
    "LayerTrees",
    "Maker",
    "Marks",
    "Node",
    "PathFloor",
    "PathVersion",
    "PathVersions",
    "PlainMembers",
    "Router",
    "RouterFacts",
    "RouterStats",
    "SearchBatch",
    "SearchEvent",
    "SearchFlags",
    "SearchRecord",
    "SearchSetup",
    "SearchWalk",
    "Searcher",
    "SetAttr",
    "Summary",
    "Tree",
    "TreeLayer",
    "Upper",
    "UpperFlags",
    "UpperList",
    "View",
    "keep_libraries",
    "matches",
    "opaque_name",
    "open_beneath",
    "open_within",
    "private_directory",
    "probe_io_uring",
    "search_records",
    "stored_name",
    "time_of_bucket",
    "whiteout_name",
]
