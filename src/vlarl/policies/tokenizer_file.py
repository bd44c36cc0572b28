"""tokenizer.json, read and tried once, so that a damaged one fails here and not in the middle of a run."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

_TRIAL = "What action should the robot take to pick up the red cube?"


def read_tokenizer(path: Path) -> Tokenizer:
    """ValueError, in the library's words, for a file that gives no tokenizer or one that cannot encode."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.encode(_TRIAL, add_special_tokens=False)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the library raises plain Exceptions, and panics, which are not even those
        raise ValueError(str(error)) from error
    return tokenizer
