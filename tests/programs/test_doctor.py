"""The doctor: what each check says on a good and on a bad machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from small_openvla import Small, write_checkpoint
from vlarl import doctor as doctor_module
from vlarl.doctor import (
    Check,
    Diagnosis,
    check_cores,
    check_disk,
    check_packages,
    check_python,
    check_renderer,
    check_shared_memory,
    check_user_site,
    check_video,
    doctor,
    doctor_json,
    doctor_text,
    probe,
    read_lock,
    usable_cores,
)
from vlarl.doctor_recipe import check_recipe
from vlarl.errors import Exit, RecipeError
from vlarl.plan_machine import Machine, named_machine
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.learning import ImitationSpec, TrainSpec
from vlarl.recipe.specs.policies import OpenVlaSpec, TinySpec
from vlarl.recipe.specs.rewards import ProcessRewardSpec
from vlarl.recipe.specs.suites import TabletopSpec
from vlarl.run import machine

FRAME = {"backend": "osmesa", "size": 64, "colours": 9, "vendor": "Mesa", "renderer": "llvmpipe", "version": "4.5"}


def test_this_machine_can_run_the_quickstart() -> None:
    diagnosis = doctor("quickstart")
    found = {check.name: check for check in diagnosis.checks}
    assert diagnosis.exit_status is Exit.OK, doctor_text(diagnosis)
    assert {"python", "packages", "torch", "renderer", "GL driver", "/dev/shm", "disk", "cores", "workers"} <= set(
        found
    )
    assert "colours" in found["renderer"].found
    assert all(check.why for check in diagnosis.checks)
    assert all((check.remedy is None) == (check.status == "ok") for check in diagnosis.checks)
    json.dumps(doctor_json(diagnosis))


def test_an_invalid_recipe_is_a_recipe_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("ppo: {gama: 1}\n")
    with pytest.raises(RecipeError):
        doctor(str(path))


def test_one_failure_decides_the_exit_status_and_is_explained() -> None:
    good = Check(name="good", status="ok", found="fine", why="it matters")
    bad = Check(name="something bad", status="fail", found="broken", why="nothing runs", remedy="mend it")
    warned = Check(name="odd", status="warn", found="strange", why="perhaps", remedy="look")
    assert Diagnosis(checks=(good, warned), recipe=None).exit_status is Exit.OK
    diagnosis = Diagnosis(checks=(good, bad), recipe=None)
    assert diagnosis.exit_status is Exit.ENVIRONMENT
    lines = doctor_text(diagnosis).splitlines()
    assert lines[0] == "ok    good           fine"
    assert [line.strip() for line in lines[1:]] == [
        "fail  something bad  broken",
        "why: nothing runs",
        "remedy: mend it",
    ]
    assert "it matters" in doctor_text(diagnosis, verbose=True)


@pytest.mark.parametrize(
    ("version", "status"), [((3, 11), "ok"), ((3, 12), "ok"), ((3, 10), "fail"), ((3, 13), "fail")]
)
def test_python(version: tuple[int, ...], status: str) -> None:
    assert check_python(version).status == status


def test_a_lock_is_read_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# made by\nTorch==2.13.0+cpu \\\n    --hash=sha256:ab\nruamel.yaml[x]==0.18 ; python_version > '3'\n-e .\n"
    assert read_lock(text) == {"torch": "2.13.0+cpu", "ruamel-yaml": "0.18"}
    monkeypatch.setattr(machine, "torch_build", lambda absent: "cpu")
    package = tmp_path / "src" / "vlarl"
    package.mkdir(parents=True)
    assert check_packages(package, {}).status == "warn"
    (tmp_path / "locks").mkdir()
    name = f"cpu-py{sys.version_info.major}{sys.version_info.minor}.txt"
    (tmp_path / "locks" / name).write_text(text)
    assert check_packages(package, {"torch": "2.13.0", "ruamel-yaml": "0.18"}).status == "ok"
    (tmp_path / "locks" / name).write_text(f"{text}nobody-needs-this==1\n")
    assert check_packages(package, {"torch": "2.13.0", "ruamel-yaml": "0.18"}).status == "ok", "as of an extra left out"
    (tmp_path / "locks" / name).write_text(text)
    differing = check_packages(package, {"torch": "2.12.0"})
    assert differing.status == "warn"
    assert "torch 2.12.0 (lock: 2.13.0+cpu)" in differing.found
    assert "1 missing: ruamel-yaml" in differing.found
    assert str(tmp_path / "locks" / name) in str(differing.remedy)


def test_packages_from_the_home_folder_are_a_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy-1.0.dist-info").mkdir()
    monkeypatch.setattr("site.getusersitepackages", lambda: str(tmp_path))
    assert check_user_site().status == "ok"
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    leaking = check_user_site()
    assert (leaking.status, leaking.remedy) == ("warn", "export PYTHONNOUSERSITE=1")


@pytest.mark.parametrize(
    ("answer", "statuses", "words"),
    [
        (FRAME, ["ok", "ok"], "64 px frame with 9 colours"),
        ({**FRAME, "colours": 1}, ["fail", "ok"], "blank"),
        ("no library of renderer `auto` loads", ["fail"], "no library"),
        ("the process was ended by signal 11", ["fail"], "signal 11"),
    ],
)
def test_the_renderer(monkeypatch: pytest.MonkeyPatch, answer: Any, statuses: list[str], words: str) -> None:
    monkeypatch.setattr(doctor_module, "probe", lambda code: answer)
    checks = check_renderer(None)
    assert [check.status for check in checks] == statuses
    assert words in checks[0].found
    assert (checks[0].remedy is None) == (checks[0].status == "ok")


def test_a_missing_renderer_is_reported_from_the_process_that_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import vlarl.suites.renderer as renderer

    source = "import vlarl.suites.renderer as r; r._loads_library = lambda n: False; from vlarl.doctor import *; "
    code = source + "render_probe('{\"kind\": \"tabletop\"}', 'egl')"
    assert renderer is not None
    assert "no library of renderer `egl` loads" in str(probe(code))


def test_a_probe_survives_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe("print('noise'); print('{\"a\": 1}')") == {"a": 1}
    assert "signal 11" in str(probe("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    assert str(probe("raise ValueError('planted')")) == "ValueError: planted"
    assert str(probe("import sys; sys.exit(3)")) == "exit status 3"
    assert probe("pass") == "exit status 0"

    def late(*arguments: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("python", 1)

    monkeypatch.setattr(subprocess, "run", late)
    assert "no answer" in str(probe("pass"))


def test_without_ffmpeg_videos_become_gifs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_video().status == "ok"
    monkeypatch.setattr(doctor_module, "probe", lambda code: "ModuleNotFoundError: No module named 'imageio_ffmpeg'")
    assert check_video().status == "warn"


class Usage:
    def __init__(self, size: int) -> None:
        self.total = self.free = size


@pytest.mark.parametrize(("size", "status"), [(2**20, "fail"), (2**30, "warn"), (2**36, "ok")])
def test_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, status: str) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(size))
    found = check_disk(tmp_path / "not" / "yet" / "there")
    assert found.status == status
    assert found.found.endswith(f"free at {tmp_path}")


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert check_disk(tmp_path).status == "fail"


def test_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_shared_memory(tmp_path / "none").status == "warn"
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(2**20))
    assert check_shared_memory(tmp_path).status == "warn"
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(2**30))
    assert check_shared_memory(tmp_path).status == "ok"


def test_cores_heed_the_quota_of_a_container(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    present = len(os.sched_getaffinity(0))
    for text, cores in (("max 100000", present), ("100000 100000", 1), ("50000 100000", 1), ("garbage", present)):
        quota.write_text(text)
        assert usable_cores(quota) == cores
    assert usable_cores(tmp_path / "none") == present
    assert [check_cores(n).status for n in (1, 2)] == ["warn", "ok"]


SMALL = Small(hidden=64, vision_width=32, vocabulary="small")
CARD = Check(name="GPU", status="ok", found="", why="")
CPU = Machine(device="cpu", num_gpus=0, gpu_bytes=None, gpu_name=None, host_bytes=24 * 10**9, origin="a test")


def checks(recipe: Recipe, cores: int = 8, machine: Machine = CPU) -> dict[str, Check]:
    return {check.name: check for check in check_recipe(recipe, cores, machine)}


def test_a_recipe_that_asks_for_more_cores_than_there_are() -> None:
    recipe = Recipe(suite=TabletopSpec(num_workers=8), train=TrainSpec(torch_threads=4))
    assert {name: check.status for name, check in checks(recipe, 2).items()} == {
        "workers": "warn",
        "torch threads": "warn",
        "memory": "ok",
    }
    assert {check.status for check in checks(recipe, 8).values()} == {"ok"}
    assert checks(recipe, 2)["workers"].remedy == "--set suite.num_workers=2"


def test_a_recipe_that_needs_more_memory_than_there_is() -> None:
    short = replace(CPU, host_bytes=10**8)
    found = checks(Recipe(), machine=short)["memory"]
    assert (found.status, "of 0.1 GB" in found.found) == ("warn", True)
    assert "vlarl plan" in str(found.remedy)


@pytest.mark.parametrize(("device", "status"), [("auto", "warn"), ("cuda", "fail"), ("cpu", None)])
def test_a_large_policy_without_a_gpu(tmp_path: Path, device: Any, status: str | None) -> None:
    write_checkpoint(tmp_path / "base", SMALL)
    recipe = Recipe(policy=OpenVlaSpec(checkpoint=str(tmp_path / "base"), device=device))
    found = checks(recipe)
    assert (found["GPU"].status if "GPU" in found else None) == status
    assert found["policy checkpoint"].status == "ok"
    assert found["memory"].status == "ok", "the sizes are the folder's, not those of the published model"
    assert checks(recipe, machine=named_machine("80GB", 2)).get("GPU", CARD).status == "ok"


@pytest.mark.parametrize(("device", "status"), [("auto", None), ("cuda", "fail"), ("cpu", None)])
def test_a_small_policy_needs_a_gpu_only_where_the_recipe_says_so(device: Any, status: str | None) -> None:
    recipe = Recipe(policy=TinySpec(device=device))
    found = checks(recipe)
    assert (found["GPU"].status if "GPU" in found else None) == status
    assert checks(recipe, machine=named_machine("80GB", 1)).get("GPU", CARD).status == "ok"


@pytest.mark.parametrize(
    ("values", "name", "said", "remedy"),
    [
        ({"policy": OpenVlaSpec(checkpoint="nowhere")}, "policy checkpoint", "nowhere", "hf://"),
        (
            {"policy": OpenVlaSpec(checkpoint="hf://a/b@1")},
            "policy checkpoint",
            "cache",
            "hf download a/b --revision 1",
        ),
        ({"policy": OpenVlaSpec(checkpoint="hf://a")}, "policy checkpoint", "hf://owner/name@commit", "--set"),
        ({"rewards": [ProcessRewardSpec(model="nowhere")]}, "reward model", "nowhere", "train-prm"),
        ({"imitation": ImitationSpec(demonstrations="nowhere")}, "demonstrations", "nowhere", "vlarl collect"),
    ],
)
def test_a_file_that_a_recipe_names_and_that_is_missing(
    values: dict[str, Any], name: str, said: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = checks(Recipe(**values))
    assert found[name].status == "fail"
    assert said in found[name].found
    assert remedy in str(found[name].remedy)
    assert "memory" not in found


def test_a_checkpoint_in_the_hubs_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "hub/models--someone--small/snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    write_checkpoint(snapshot, SMALL)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = checks(Recipe(policy=OpenVlaSpec(checkpoint=f"hf://someone/small@{commit}")))
    assert found["policy checkpoint"].status == "ok"
    assert commit in found["policy checkpoint"].found
