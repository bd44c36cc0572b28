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
from vlarl import doctor_probes
from vlarl.doctor import Diagnosis, doctor, doctor_json, doctor_text
from vlarl.doctor_checks import (
    check_cores,
    check_disk,
    check_packages,
    check_python,
    check_shared_memory,
    check_torch,
    check_user_site,
    check_video,
    usable_cores,
)
from vlarl.doctor_probes import Trouble, call, probe, suite_probe, tabletop_probe
from vlarl.doctor_recipe import Check, check_recipe
from vlarl.doctor_scene import check_scene, check_suite
from vlarl.errors import Exit, RecipeError
from vlarl.plan_machine import Machine, named_machine
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.learning import ImitationSpec, TrainSpec
from vlarl.recipe.specs.policies import OpenVlaSpec, TinySpec
from vlarl.recipe.specs.rewards import ProcessRewardSpec
from vlarl.recipe.specs.suites import TabletopSpec
from vlarl.run import machine

SCENE = {
    "backend": "osmesa",
    "size": 64,
    "colours": 18,
    "pixels": "cd8fdddf59bc5b5f",
    "states": "35ba4900a269cf97",
    "vendor": "Mesa/X.org",
    "renderer": "llvmpipe (LLVM 15.0.6, 256 bits)",
    "version": "4.5 (Compatibility Profile) Mesa 22.3.6",
}
SETTINGS = {
    "deterministic_algorithms": True,
    "tf32": {"matmul": False, "cudnn": False},
    "cudnn_benchmark": False,
    "threads": 1,
}
REPEATS = {"device": "cpu", "repeats": True, "failed": None, "settings": SETTINGS}
TORCH = {
    "version": "2.13.0",
    "cuda": None,
    "num_gpus": 0,
    "said": None,
    "threads": 1,
    "capability": "AVX2",
    "determinism": REPEATS,
}
GUARD = {"suite": "libero_goal", "task": "open_the_drawer", "size": 256, "colours": None}


def test_this_machine_can_run_the_quickstart() -> None:
    diagnosis = doctor("quickstart")
    found = {check.name: check for check in diagnosis.checks}
    assert diagnosis.exit_status is Exit.OK, doctor_text(diagnosis)
    assert {"python", "packages", "torch", "renderer", "GL driver", "/dev/shm", "disk", "cores", "workers"} <= set(
        found
    )
    assert {"determinism", "pixels", "physics", "LIBERO physics", "cache"} <= set(found)
    assert "colours" in found["renderer"].found
    assert "deterministic algorithms on, TF32 off" in found["determinism"].found
    assert "moves as stored" in found["LIBERO physics"].found
    assert all(check.why for check in diagnosis.checks)
    assert all((check.remedy is None) == (check.status == "ok") for check in diagnosis.checks)
    json.dumps(doctor_json(diagnosis))


Answers = dict[str, Any]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """What the probes answer, by a word of their code; the doctor asks no process."""
    found = {"torch_probe": TORCH, "tabletop_probe": SCENE, "suite_probe": GUARD, "video_probe": {"version": "7"}}
    monkeypatch.setattr(doctor_module, "probe", lambda code: found[code.split()[3]])
    return found


def names(diagnosis: Diagnosis) -> dict[str, str]:
    return {check.name: check.status for check in diagnosis.checks}


HOST = {"/dev/shm", "disk", "cache", "cores", "workers", "torch threads", "memory", "GPU"}


def test_an_image_is_judged_by_what_it_must_have(answers: Answers) -> None:
    answers["torch_probe"] = {**TORCH, "cuda": "13.0", "said": "Found no NVIDIA driver on your system."}
    diagnosis = doctor(container=True)
    assert diagnosis.exit_status is Exit.OK, doctor_text(diagnosis)
    assert set(names(diagnosis)).isdisjoint({*HOST, "torch's GPUs"})
    assert names(doctor())["torch's GPUs"] == "warn"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("video_probe", Trouble("No module named 'imageio_ffmpeg'")),
        ("suite_probe", Trouble("LIBERO is not installed", "E440", "install it")),
        ("tabletop_probe", {**SCENE, "colours": 1}),
        ("torch_probe", {**TORCH, "determinism": {**REPEATS, "repeats": False}}),
    ],
)
def test_a_warning_is_a_fault_of_an_image(answers: Answers, name: str, answer: Any) -> None:
    answers[name] = answer
    assert doctor(container=True).exit_status is Exit.ENVIRONMENT


def test_an_image_may_be_made_on_another_processor(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlarl.doctor_scene.cpu_model", lambda: {"family_model_stepping": "6/143/8"})
    answers["tabletop_probe"] = {**SCENE, "pixels": "other", "states": "other"}
    diagnosis = doctor(container=True)
    assert diagnosis.exit_status is Exit.OK, doctor_text(diagnosis)
    assert (names(diagnosis)["pixels"], names(diagnosis)["physics"]) == ("warn", "warn")


def test_runs_and_cache_are_looked_at_where_they_are_asked_for(
    answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.yaml").write_text(f"run: {{folder: {tmp_path}/a, cache: {tmp_path}/b}}\n")
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()

    def places(**options: Any) -> list[str]:
        found = {check.name: check.found for check in doctor(str(tmp_path / "r.yaml"), **options).checks}
        return [found[name].rpartition("/")[2] for name in ("disk", "cache")]

    assert places() == ["a", "b"]
    assert places(runs=tmp_path / "c") == ["c", "b"]


def test_only_a_recipe_of_libero_fails_for_want_of_it(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    answers["suite_probe"] = Trouble("positions differ", "D620", "pip install mujoco==3.1.6")
    assert names(doctor())["LIBERO physics"] == "warn"
    assert names(doctor("libero_goal"))["LIBERO physics"] == "fail"
    monkeypatch.setattr(machine, "packages", dict)
    assert "LIBERO physics" not in names(doctor())


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
    assert "make environment" in str(differing.remedy)
    assert "pip install -r" not in str(differing.remedy), "it would not heed where torch's CPU build comes from"


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
        (SCENE, ["ok"] * 4, "64 px frame with 18 colours"),
        ({**SCENE, "colours": 1}, ["fail", "ok", "ok", "ok"], "blank"),
        (Trouble("no library of renderer `auto` loads", "E410", "apt-get install"), ["fail"], "E410: no library"),
        (Trouble("the process was ended by signal 11"), ["fail"], "signal 11"),
    ],
)
def test_the_renderer(answer: Any, statuses: list[str], words: str) -> None:
    checks = check_scene(answer)
    assert [check.status for check in checks] == statuses
    assert words in checks[0].found
    assert all((check.remedy is None) == (check.status == "ok") for check in checks)


def test_pixels_are_compared_where_their_digest_is_known() -> None:
    def pixels(**changes: str) -> Check:
        return check_scene({**SCENE, **changes})[2]

    assert "as stored for osmesa, llvmpipe, Mesa 22.3.6" in pixels().found
    other = pixels(pixels="0123")
    assert (other.status, "0123, not cd8fdddf59bc5b5f" in other.found) == ("warn", True)
    for unknown in ({"version": "4.6.0 NVIDIA 580.1", "renderer": "NVIDIA H200", "backend": "egl"}, {"version": "?"}):
        found = pixels(**unknown, pixels="0123")
        assert (found.status, "unknown here" in found.found) == ("ok", True)


@pytest.mark.parametrize(("processor", "status", "host"), [("25/1/1", "fail", False), ("6/143/8", "warn", True)])
def test_other_physics_is_a_fault_only_on_the_processor_of_the_digest(processor: str, status: str, host: bool) -> None:
    found = check_scene({**SCENE, "states": "0123"}, processor)[3]
    assert (found.name, found.status, found.host) == ("physics", status, host)
    assert check_scene(SCENE, processor)[3].status == "ok"


def test_the_scene_is_drawn_and_moves_as_stored_with_either_renderer() -> None:
    for backend in ("osmesa", "egl"):
        found = probe(call(tabletop_probe, backend))
        assert isinstance(found, dict), found
        assert [check.status for check in check_scene(found)] == ["ok"] * 4, found


def test_what_a_suite_lacks_is_said_with_its_code_and_its_hint() -> None:
    said = "the physics is not what published numbers rest on\ninstalled: mujoco 3.2"
    found = check_suite("libero", Trouble(said, "D620", "pip install mujoco==3.1.6"), wanted=True)
    assert (found.name, found.status, found.remedy) == ("LIBERO physics", "fail", "pip install mujoco==3.1.6")
    assert found.found == "D620: the physics is not what published numbers rest on; installed: mujoco 3.2"
    assert check_suite("libero", Trouble("signal 9"), wanted=False).status == "warn"
    assert "moves as stored" in check_suite("libero", GUARD, wanted=True).found
    blank = check_suite("mine", {**GUARD, "colours": 1}, wanted=True)
    assert (blank.name, blank.status) == ("suite mine", "fail")


def test_a_missing_renderer_is_reported_from_the_process_that_lacks_it() -> None:
    code = "import vlarl.suites.renderer as r; r._loads_library = lambda n: False; " + call(tabletop_probe, "egl")
    found = probe(code)
    assert isinstance(found, Trouble)
    assert (found.code, "no library of renderer `egl` loads" in found.message) == ("E410", True)
    assert "apt-get install" in str(found.hint)


def test_any_error_of_a_suite_keeps_its_code_and_its_hint() -> None:
    found = probe(call(suite_probe, '{"kind": "tabletop", "tasks": ["dance"]}', "auto", True))
    assert isinstance(found, Trouble)
    assert found.code is not None
    assert found.code.startswith("R")
    assert "dance" in found.message
    assert found.hint


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"num_gpus": 2}, "ok", "torch sees 2"),
        ({"num_gpus": 0}, "warn", "torch sees none"),
        ({"num_gpus": 0, "said": "The NVIDIA driver on your system is too old"}, "warn", "too old"),
        ({"num_gpus": 1, "said": "sm_120 is not compatible with this CUDA"}, "warn", "sm_120"),
    ],
)
def test_a_cuda_build_that_cannot_use_a_gpu(changes: dict[str, Any], status: str, words: str) -> None:
    _, card, _ = check_torch({**TORCH, "cuda": "13.0", **changes})
    assert (card.status, words in card.found, card.host) == (status, True, True)
    assert (card.remedy is None) == (status == "ok")
    assert [check.name for check in check_torch(TORCH)] == ["torch", "determinism"]


@pytest.mark.parametrize(("strict", "status"), [(True, "fail"), (False, "warn")])
def test_a_step_that_does_not_repeat(strict: bool, status: str) -> None:
    for failed in (None, "CUDA error: no kernel image is available"):
        answer = {**TORCH, "determinism": {"device": "cuda", "repeats": False, "failed": failed}}
        found = check_torch(answer, strict=strict)[-1]
        assert (found.name, found.status) == ("determinism", status)
        assert (failed or "other bytes") in found.found
    assert check_torch(Trouble("no such file"))[0].status == "fail"


def test_a_step_that_differs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([[b"a"], [b"b"], [b"a"], [b"a"]])
    monkeypatch.setattr(doctor_probes, "_step", lambda device: next(drawn))
    monkeypatch.setattr("vlarl.seeding.apply_determinism", lambda level, threads: None)
    assert [doctor_probes._determinism("cpu")["repeats"] for _ in range(2)] == [False, True]


def test_a_probe_survives_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe("print('noise'); print('{\"a\": 1}')") == {"a": 1}
    assert "signal 11" in str(probe("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    assert str(probe("raise ValueError('planted')")) == "ValueError: planted"
    assert str(probe("import sys; sys.exit(3)")) == "exit status 3"
    assert probe("pass") == Trouble("exit status 0")

    def late(*arguments: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("python", 1)

    monkeypatch.setattr(subprocess, "run", late)
    assert "no answer" in str(probe("pass"))


def test_without_ffmpeg_videos_become_gifs() -> None:
    assert check_video({"version": "7"}).status == "ok"
    assert check_video(Trouble("ModuleNotFoundError: No module named 'imageio_ffmpeg'")).status == "warn"


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
    assert str(checks(recipe, 2)["workers"].remedy).startswith("--set suite.num_workers=2 ")


@pytest.mark.parametrize(
    ("num_envs", "num_workers", "cores", "remedy"),
    [
        (32, 2, 8, "--set suite.num_workers=8 (changes no result)"),  # six cores idle
        (32, 4, 7, None),
        (8, 2, 64, "--set suite.num_workers=4 (changes no result)"),  # the slots of a group
        (4, 2, 64, None),
        (32, 6, 4, "--set suite.num_workers=4 (changes no result)"),
    ],
)
def test_workers_against_cores_and_slots(num_envs: int, num_workers: int, cores: int, remedy: str | None) -> None:
    recipe = Recipe(suite=TabletopSpec(num_envs=num_envs, num_workers=num_workers))
    found = checks(recipe, cores)["workers"]
    assert (found.status, found.remedy) == ("warn" if remedy else "ok", remedy)


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


def test_a_gpu_that_torch_cannot_see_is_none() -> None:
    recipe = Recipe(policy=TinySpec(device="cuda"))
    for seen, status in ((0, "fail"), (1, "ok"), (None, "ok")):
        found = {check.name: check for check in check_recipe(recipe, 8, named_machine("80GB", 1), seen)}
        assert found["GPU"].status == status


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
