"""The packages of RPM, whose database has one of three formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unionmount.browse.packages.rpm_bdb import read_bdb
from unionmount.browse.packages.rpm_header import package_of_header
from unionmount.browse.packages.rpm_ndb import read_ndb
from unionmount.browse.packages.rpm_sqlite import read_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionmount.browse.packages.model import Package
    from unionmount.browse.packages.reading import ImageFile

SQLITE, NDB, BERKELEY = b"rpmdb.sqlite", b"Packages.db", b"Packages"
FORMATS = (SQLITE, NDB, BERKELEY)
"""The names of the databases; the first that is there counts, as a conversion leaves the others."""


def parse_rpm(name: bytes, database: ImageFile, log: ImageFile | None) -> Iterator[Package]:
    """Yield the packages of a database; ``log`` is the write-ahead log of SQLite, if there is one.

    Raise FormatError if it is damaged.
    """
    if name == SQLITE:
        headers = read_sqlite(database, log)
    elif name == NDB:
        headers = read_ndb(database)
    else:
        headers = read_bdb(database)
    for blob in headers:
        package = package_of_header(blob)
        if package is not None:
            yield package
