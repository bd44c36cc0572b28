"""A command as its user types it, in this process."""

from __future__ import annotations

import pytest

from vlarl import cli


def run_cli(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    found = capsys.readouterr()
    return int(ended.value.code or 0), found.out, found.err
