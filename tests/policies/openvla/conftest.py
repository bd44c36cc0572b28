from pathlib import Path

import pytest

from small_openvla import Small, write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of random weights in the published layout."""
    folder = tmp_path_factory.mktemp("checkpoint") / "small"
    write_checkpoint(folder, Small(hidden=64, vision_width=32, vocabulary="small"))
    return folder
