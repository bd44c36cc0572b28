"""What is published of a run names no folder of the machine, and stays as it was otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from publish_run import without_places


def test_a_run_near_the_root_folder_leaves_addresses_alone() -> None:
    text = '{"remote": "https://example.org/a/b.git", "cache": "hf://owner/name@1", "path": "/scratch/x"}'
    assert without_places(text, Path("/scratch-of-nobody/a")) == text
    assert without_places("/scratch-of-nobody/runs/a and /b", Path("/scratch-of-nobody/runs/a")) == "DIR/a and /b"


def test_places_of_the_run_of_its_checkout_and_of_its_recipe_are_taken_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    checkout = tmp_path / "mine" / "checkout"
    text = f"{checkout}/runs/a/b {checkout}/r.yaml {checkout.parent}/cache /far/recipes/r.yaml {Path.home()}/x"
    found = without_places(text, checkout / "runs" / "a", [Path("/far/recipes")])
    assert str(tmp_path) not in found
    assert found.split()[0] == "DIR/a/b"
    assert found.split()[3:] == ["recipes/r.yaml", "~/x"]


def test_in_the_present_checkout_its_paths_become_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert without_places(f"{tmp_path}/recipes/a.yaml", tmp_path / "runs" / "a") == "./recipes/a.yaml"
