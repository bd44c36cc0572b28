"""events.jsonl: one line per iteration, and one per evaluation, each on disk before the run goes on."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from vlarl.errors import AssetError
from vlarl.run.documents import parse_json
from vlarl.run.files import disk_errors, write_bytes

ITERATION, EVALUATION = "iteration", "evaluation"


class EventLog:
    """Appends records. Opening it cuts off a last line that a crash left torn.

    A record has ``kind`` and ``iteration``. One of kind ``iteration`` tells of iteration i (from 0);
    any other, an ``evaluation`` for example, of the policy after that many iterations.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            self._stream = path.open("ab", buffering=0)
            self._cut_torn_line()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record and wait until it is on disk; numbers that are not finite become null."""
        assert "iteration" in record, "every record says to which iteration it belongs"
        assert "kind" in record, "every record says what it is"
        line = json.dumps(_finite(record), separators=(",", ":"), allow_nan=False, ensure_ascii=False)
        data = line.encode() + b"\n"
        start = os.fstat(self._stream.fileno()).st_size
        try:
            with disk_errors(self.path, kept=f"{self.path.name} up to the record before"):
                if self._stream.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._stream.fileno())
        except BaseException:
            self._stream.truncate(start)
            raise

    def truncate_to(self, iteration: int) -> None:
        """Cut back to a checkpoint of ``iteration`` iterations done: what came later will be written again."""
        records = [record for record in read_events(self.path) if _is_before(record, iteration)]
        lines = (json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n" for record in records)
        data = "".join(lines).encode()
        self._stream.close()
        with disk_errors(self.path):
            write_bytes(self.path, data)
            self._stream = self.path.open("ab", buffering=0)

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cut_torn_line(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._stream.truncate(whole)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Every record of an event log; a torn last line is left out, any other broken line is an AssetError (R320)."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline was never finished
        try:
            record = parse_json(line)
        except ValueError as error:
            raise _broken(path, number) from error
        if not isinstance(record, dict) or not isinstance(record.get("iteration"), int):
            raise _broken(path, number)
        records.append(record)
    return records


def _broken(path: Path, number: int) -> AssetError:
    return AssetError(
        f"{path} is damaged: line {number} is not a record",
        code="R320",
        place=f"{path}:{number}",
        hint="restore the file from a copy; the checkpoints are not touched by this",
    )


def _is_before(record: Mapping[str, Any], iteration: int) -> bool:
    limit = iteration if record.get("kind") == ITERATION else iteration + 1
    return bool(record["iteration"] < limit)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
