"""RPM's database in SQLite, ``rpmdb.sqlite``.

SQLite reads files only, so the database is copied into a temporary directory, with its write-ahead
log if that has content. The file is untrusted: nothing but the column of the headers may be read,
and the work is bounded.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.browse.packages.rpm_header import MAX_HEADER
from unionmount.errors import FormatError
from unionmount.system.text import printable

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from unionmount.browse.packages.reading import ImageFile

_MAX_COPY = 2 << 30  # bytes of the database
_STEP = 100_000  # instructions of SQLite's machine between two looks at the budget
_MAX_STEPS = 2_000  # such looks; a database of 10,000 packages takes less than ten
_MAX_ROWS = 1_000_000


def read_sqlite(database: ImageFile, log: ImageFile | None) -> Iterator[bytes]:
    """Yield the headers; raise FormatError if the database is damaged."""
    try:
        import sqlite3  # noqa: PLC0415 - some builds of Python lack it
    except ImportError:
        raise FormatError(
            "is an SQLite database, which this Python cannot read: it has no module sqlite3"
        ) from None
    with tempfile.TemporaryDirectory(prefix="unionmount-rpm-") as directory:
        path = Path(directory) / "rpmdb.sqlite"
        try:
            database.copy_to(path, _MAX_COPY)
            if log is not None and log.size:
                log.copy_to(path.with_name("rpmdb.sqlite-wal"), _MAX_COPY)
        except OSError as error:
            place = printable(tempfile.gettempdir())
            raise FormatError(
                f"cannot be copied to {place}, where SQLite would read it: {error.strerror}; "
                "set TMPDIR to a directory with more space"
            ) from error
        try:
            with closing(sqlite3.connect(path)) as connection:
                _confine(connection)
                yield from _headers(connection, database.size + (log.size if log else 0))
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise FormatError(f"SQLite cannot read it: {printable(str(error))}") from None


def _headers(connection: sqlite3.Connection, most: int) -> Iterator[bytes]:
    """Yield the headers, of at most ``most`` bytes: more is only where rows share pages."""
    rows = connection.execute("SELECT blob FROM Packages")
    for number, (blob,) in enumerate(rows):
        if number >= _MAX_ROWS:
            raise FormatError(f"has more than {_MAX_ROWS} rows")
        if not isinstance(blob, bytes):
            raise FormatError("a row is not a header")
        most -= len(blob)
        if most < 0:
            raise FormatError("its rows are longer than the file")
        yield blob


def _confine(connection: sqlite3.Connection) -> None:
    """Permit to read one table, in bounded time and memory; a view or function is refused."""
    import sqlite3  # noqa: PLC0415 - see above

    steps = 0

    def is_over() -> int:
        nonlocal steps
        steps += 1
        return int(steps > _MAX_STEPS)

    def allow(
        action: int, first: str | None, second: str | None, _db: str | None, by: str | None
    ) -> int:
        if action == sqlite3.SQLITE_SELECT and by is None:
            return sqlite3.SQLITE_OK
        reads = action == sqlite3.SQLITE_READ and first == "Packages" and by is None
        return sqlite3.SQLITE_OK if reads and second in ("blob", "") else sqlite3.SQLITE_DENY

    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_HEADER)
    connection.set_progress_handler(is_over, _STEP)
    connection.set_authorizer(allow)
