"""A SQLite file that several processes write: what was acknowledged is on the disk, and errors say what to do."""

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class Database:
    """A file in WAL mode with synchronous=FULL; `kind` and `version`, whole numbers, mark it as ours.

    `schema` are the statements that make it. A process that was forked opens its own. Raises OSError if the disk is full or
    failing, TimeoutError if other processes hold the file for longer than `wait` seconds, ValueError if it is no such file.
    """

    def __init__(self, path: Path, what: str, schema: Sequence[str], kind: int, version: int, wait: float):
        self.path, self.what, self.wait, self._lock = Path(path), what, wait, threading.RLock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._in_words():
            self._db = sqlite3.connect(self.path, timeout=wait, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(schema, kind, version)
        except BaseException:
            self.close()
            raise

    def _prepare(self, schema: Sequence[str], kind: int, version: int) -> None:
        with self._in_words():
            mode = self._patiently("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise OSError(f"{self.path} cannot be shared safely (journal mode {mode!r}): put it on a local disk")
        for pragma in ("synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
            self.all(f"PRAGMA {pragma}")
        if self.one("PRAGMA application_id") != kind:
            with self.writing():  # of two processes that create it, the second finds it made
                if self.one("PRAGMA application_id") == 0 == self.one("SELECT count(*) FROM sqlite_schema"):
                    for statement in (*schema, f"PRAGMA application_id = {kind}", f"PRAGMA user_version = {version}"):
                        self.all(statement)
                elif self.one("PRAGMA application_id") != kind:
                    raise ValueError(f"{self.path} is a database of something else: want {self.what}, or a new file")
        if (found := self.one("PRAGMA user_version")) != version:
            raise ValueError(f"{self.path} is {self.what} of version {found}, and this code reads version {version}")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def all(self, statement: str, *values) -> list[tuple]:
        """Execute a statement and return its rows."""
        with self._lock, self._in_words():
            return self._db.execute(statement, values).fetchall()

    def one(self, statement: str, *values):
        """The first column of the first row."""
        return self.all(statement, *values)[0][0]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction: all of it is on the disk at the end, or nothing after an error."""
        with self._lock, self._in_words():
            self._patiently("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _patiently(self, statement: str) -> sqlite3.Cursor:
        """Execute; while another process is in the way, again: SQLite itself does not wait in every case."""
        end = time.monotonic() + self.wait
        while True:
            try:
                return self._db.execute(statement)
            except sqlite3.OperationalError as error:
                if _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL) or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code, said = _code(error), f"{self.path}: {error}, and nothing was saved"
            if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise OSError(f"{said}: the disk is full or failing; free space, then try again") from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL):
                raise TimeoutError(f"{said}: another process holds the file; try again, or close it there") from error
            if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
                raise PermissionError(f"{said}: want a file that can be written to, in a folder that can") from error
            if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise ValueError(f"{said}: want {self.what}, undamaged") from error
            raise ValueError(said) from error


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the details of the extended code
