"""JSON-lines output of long work: complete or not there, and an interrupted run can go on.

Rows are written to `FILE.partial` as they are finished, and the file gets its name at the end.
Beside them is what they were made with, so that a run cannot go on with others; see
`experiments.rows.sidecar`.
"""

import errno
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from experiments.rows.sidecar import Sidecar
from mtad_jax.checkpoints.locks import lock_file
from mtad_jax.records import partial_of


def rows_kept(path: str | Path) -> str:
    """Return what to say at the end of an error of rows that are kept; empty where there are none.

    Args:
      path: the final file of a run that was cut short.
    """
    partial = partial_of(path)
    count = partial.read_bytes().count(b"\n") if partial.is_file() else 0
    return f"; {count} rows are in {partial}: --resume goes on" if count else ""


class RowWriter:
    """Writes rows in order; a context manager.

    Attributes:
      path: the final file.
      partial: where the rows are until then.
      count: rows there so far, those of an earlier run included.
    """

    def __init__(
        self,
        path: str | Path,
        settings: dict[str, Any],
        *,
        free: Collection[str] = (),
        overwrite: bool = False,
        resume: bool = False,
        again: str = "use --resume",
        anew: str = "use --overwrite to start again",
    ):
        """Says what will be written; `__enter__` opens it.

        Args:
          path: the final file.
          settings: all that the rows depend on, as JSON can hold it.
          free: of these settings those that a resumed run may have otherwise.
          overwrite: replace an existing file, and a partial one unless `resume`.
          resume: go on after the rows of the partial file, if there is one.
          again: what an error advises to go on with.
          anew: what an error advises where that cannot be.
        """
        self.path = Path(path)
        self.partial = partial_of(self.path)
        self._sidecar = Sidecar(self.path, settings, free, anew)
        self._overwrite, self._resume, self._again = overwrite, resume, again
        self.count = 0
        self._file: BinaryIO | None = None

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Keep the settings beside the finished rows, with what else there is to know of the run.

        Args:
          facts: of `experiments.bench.facts.run_facts`. Its `config`, and what its `models` hold,
            must be the same when a run goes on. What is known only later may be said while the
            file is open.

        Raises:
          OSError: the file is open, and they cannot be written.
        """
        self._sidecar.describe(facts)
        if self._file is not None:
            try:
                self._sidecar.begin()
            except OSError as error:
                raise self._named(error) from error

    def check(self) -> None:
        """Check that the output may be written, before any work.

        Raises:
          ValueError: it exists, or an earlier run's rows do, or those were made otherwise.
        """
        if self.path.is_dir():
            raise ValueError(f"{self.path}: --output is a folder: give a file name")
        if os.path.lexists(self.path) and not self._overwrite:
            raise ValueError(f"{self.path}: output exists: use another name or --overwrite")
        if not self.partial.exists() or not self.partial.stat().st_size:
            return  # a run that was killed before its first row leaves an empty file
        if self._resume:
            self._sidecar.check_same()
        elif not self._overwrite:
            raise ValueError(
                f"{self.partial}: rows of an interrupted run: --resume goes on after them, "
                "--overwrite starts again"
            )

    def __enter__(self) -> "RowWriter":
        """Open the partial file and count the rows to keep.

        Raises:
          ValueError: as `check`; another run is writing it.
          OSError: the folder cannot be written.
        """
        self.check()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.partial.open("ab+")
        try:
            lock_file(self._file.fileno())
            self._begin(self._file)
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(f"{self.path}: another run is writing it: wait for its end") from error
        except OSError as error:
            if os.fstat(self._file.fileno()).st_size:  # an earlier run's rows
                _close(self._file)
            else:
                self._abandon()
            raise self._named(error) from error
        return self

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows and force them to disk.

        Raises:
          OSError: they cannot be written; those written before stay.
        """
        assert self._file is not None
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
        try:
            # What UTF-8 cannot hold (half a surrogate pair) becomes its JSON escape.
            self._file.write("".join(lines).encode("utf-8", errors="backslashreplace"))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._named(error) from error
        self.count += len(rows)

    def cut(self, count: int) -> None:
        """Keep the first `count` rows only.

        Raises:
          OSError: the file cannot be read or written.
        """
        assert self._file is not None
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        self._file.truncate(sum(map(len, lines[:count])))
        self._file.seek(0, os.SEEK_END)
        self.count = min(count, len(lines))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Rename the partial file, or leave it if the work was cut short with rows in it."""
        assert self._file is not None
        try:
            if kind is None:
                self._sidecar.keep()
                self.partial.replace(self.path)
                self._sidecar.remove()
            elif not self.count:
                self._abandon()
        except OSError as failure:
            raise self._named(failure) from failure
        finally:
            _close(self._file)

    def _begin(self, file: BinaryIO) -> None:
        if self._resume and os.fstat(file.fileno()).st_size:
            self.count = _keep_whole_rows(file)
        else:
            file.truncate(0)
        self._sidecar.begin()

    def _abandon(self) -> None:
        """Remove what holds no row."""
        assert self._file is not None
        self.partial.unlink(missing_ok=True)
        self._sidecar.remove()
        _close(self._file)

    def _named(self, error: OSError) -> OSError:
        """Return the error with the file's name and, on a full disk, what to do."""
        hint = f": make room and {self._again}" if error.errno == errno.ENOSPC else ""
        return OSError(f"{self.partial}: {error.strerror or error}{hint}")


class NoWriter(RowWriter):
    """Takes rows and writes none: for the processes of a run that are not its writer."""

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Nothing is kept."""

    def check(self) -> None:
        """Nothing can be wrong."""

    def __enter__(self) -> "NoWriter":
        return self

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Count them."""
        self.count += len(rows)

    def __exit__(self, *error: object) -> None:
        pass


def _keep_whole_rows(file: BinaryIO) -> int:
    """Cut a last line that a killed run left unfinished; return how many lines stay."""
    file.seek(0)
    data = file.read()
    end = data.rfind(b"\n") + 1
    file.truncate(end)
    file.seek(end)
    return data.count(b"\n")


def _close(file: BinaryIO) -> None:
    try:
        file.close()
    except OSError:  # the bytes that a full disk refused are refused again
        pass
