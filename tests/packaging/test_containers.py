"""What images are made of reaches the build; wrappers give exactly these commands."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from host import CONTAINERS, DIGEST, PATIENT, ROOT, TEMPLATES, WRAPPERS, Host

import vlarl

DOCKERFILE = (ROOT / "Dockerfile").read_text()
DEFINITION = (CONTAINERS / "vlarl.def").read_text()
INSTALL = (CONTAINERS / "install.sh").read_text()
SCRIPTS = (*WRAPPERS, *TEMPLATES, "folders.sh", "install.sh")


def copied_by_docker() -> list[str]:
    """Sources of every COPY from the build's context."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def copied_by_apptainer() -> list[str]:
    section = DEFINITION.partition("%files\n")[2].partition("\n\n")[0]
    return [line.split()[0] for line in section.splitlines()]


def is_ignored(path: str) -> bool:
    """Docker's rules: the last pattern that names the file or a folder above it decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(rf"{pattern}(?:/.*)?", path):
            ignored = not line.startswith("!")
    return ignored


def files_below(name: str) -> list[str]:
    path = ROOT / name
    found = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return [str(one.relative_to(ROOT)) for one in found if "__pycache__" not in one.parts]


@pytest.mark.parametrize("source", [*copied_by_docker(), *copied_by_apptainer()])
def test_what_is_copied_exists_and_is_not_ignored(source: str) -> None:
    names = files_below(source)
    assert names
    assert [name for name in names if is_ignored(name)] == []


@pytest.mark.parametrize(
    "name", [".git/config", ".venv/bin/python", "runs/a/events.jsonl", "src/vlarl/__pycache__/a.pyc"]
)
def test_what_is_private_or_built_stays_outside(name: str) -> None:
    assert is_ignored(name)


def test_both_images_hold_the_same() -> None:
    assert {name.rstrip("/") for name in copied_by_docker()} == set(copied_by_apptainer())
    steps = re.compile(r"(?:install\.sh|\$install) ([a-z]+)")
    in_docker = steps.findall(DOCKERFILE)
    in_apptainer = steps.findall(DEFINITION)
    assert in_docker == in_apptainer == ["libraries", "tools", "environment", "project", "record", "check"]
    assert [step for step in in_docker if not re.search(rf"^{step}\)$", INSTALL, re.MULTILINE)] == []
    fixed = {("PYTHONNOUSERSITE", "1"), ("HOME", "/home/vlarl"), ("HF_HUB_OFFLINE", "1")}
    assert variables_of(DOCKERFILE) >= variables_of(DEFINITION) > fixed


def variables_of(text: str) -> set[tuple[str, str]]:
    """NAME=VALUE of Docker's ENV or of the definition's %environment."""
    block = re.search(r"^ENV ((?:.*\\\n)*.*)|^%environment\n((?:    .*\n)*)", text, re.MULTILINE)
    assert block is not None
    return set(re.findall(r"\b([A-Z_]+)=([^\s\\]+)", block[1] or block[2]))


def test_both_images_say_where_they_come_from() -> None:
    named = set(re.findall(r"\b(org\.opencontainers\.image\.[a-z.]+)", DOCKERFILE))
    assert named - set(re.findall(r"\b(org\.opencontainers\.image\.[a-z.]+)", DEFINITION)) <= {
        "org.opencontainers.image.description"
    }
    assert {f"org.opencontainers.image.{name}" for name in ("source", "version", "revision", "base.digest")} <= named
    assert f"\nARG VERSION={vlarl.__version__}\n" in DOCKERFILE
    assert "io.vlarl.lock" in DEFINITION


def test_an_empty_revision_is_an_argument_too() -> None:
    line = next(line for line in DEFINITION.splitlines() if "$install record" in line)
    filled = line.replace("{{ VARIANT }}", "cpu").replace("{{ REVISION }}", "").replace("{{ BASE_IMAGE }}", "debian")
    assert shlex.split(filled.replace("$install", "install")) == ["install", "record", "cpu", "", "debian"]


def test_the_check_of_an_image_leaves_no_cache_behind() -> None:
    check = INSTALL.partition("\ncheck)\n")[2]
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
        assert check.index(f'{name}="$folder') < check.index("vlarl ")
    assert "vlarl doctor --container\n" in check
    assert check.index('TMPDIR="$folder"') < check.index("vlarl ")


def test_nothing_is_mounted_over_a_folder_that_the_image_needs() -> None:
    # Buildah removes what it mounted over: an image made so had no /tmp.
    assert re.findall(r"--mount=\S+", DOCKERFILE) == ["--mount=type=secret,id=pip,target=/etc/pip.conf"]


@pytest.mark.parametrize("text", [DOCKERFILE, DEFINITION])
def test_the_base_and_the_locks_are_of_one_python(text: str) -> None:
    # Debian 12 has Python 3.11; with another base other locks would be taken.
    assert re.search(r"BASE_IMAGE=debian:bookworm$", text, re.MULTILINE)
    assert re.search(r"VARIANT=cpu$", text, re.MULTILINE)
    for variant in ("cpu", "cuda"):
        assert (ROOT / "locks" / f"{variant}-py311.txt").is_file()


def test_every_library_that_rendering_needs_is_installed() -> None:
    import system_libraries

    line = next(line for line in INSTALL.splitlines() if "set -- libosmesa6" in line)
    assert {*system_libraries.OSMESA_PACKAGES, *system_libraries.EGL_PACKAGES} <= set(line.split())


def test_the_image_runs_vlarl_as_a_user_without_rights() -> None:
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert DOCKERFILE.rstrip().endswith('ENTRYPOINT ["vlarl"]')
    assert DOCKERFILE.index("install.sh check") > DOCKERFILE.index("USER")
    assert 'exec vlarl "$@"' in DEFINITION


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_parses(name: str) -> None:
    shell = "sh" if INSTALL.startswith("#!/bin/sh") and name == "install.sh" else "bash"
    subprocess.run([shell, "-n", str(CONTAINERS / name)], check=True)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_can_be_executed(name: str) -> None:
    assert os.access(CONTAINERS / name, os.X_OK)


def docker_line(host: Host, *, runs: Path | None = None, extra: tuple[str, ...] = ()) -> list[str]:
    return [
        *("run", "--rm", "--init", "--stop-timeout", "600", "--user", f"{os.getuid()}:{os.getgid()}"),
        *("--network", "none", "--shm-size", "1g", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *extra,
        *("--mount", f"type=bind,source={host.here},destination={host.here}"),
        *("--mount", f"type=bind,source={runs or host.here / 'runs'},destination={host.here / 'runs'}"),
        *("--mount", f"type=bind,source={host.home / '.cache/vlarl'},destination=/cache"),
    ]


def test_docker_gets_the_folders_the_user_and_the_digest(host: Host) -> None:
    done = host.run("docker-run.sh", "train", "recipes/my smoke.yaml", "--json", HF_TOKEN="hf_secret")
    assert done.returncode == 75, done.stderr
    end = ["--env", f"VLARL_IMAGE_DIGEST={DIGEST}", "--workdir", str(host.here), "vlarl:cpu"]
    assert host.called() == [*docker_line(host), *end, "train", "recipes/my smoke.yaml", "--json"]
    assert (host.here / "runs").is_dir()
    assert (host.home / ".cache/vlarl").is_dir()


def test_docker_gets_what_was_asked_for(host: Host, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    asked = {
        "VLARL_IMAGE": "vlarl:cuda",
        "VLARL_RUNS": str(tmp_path / "scratch"),
        "VLARL_DATA": str(tmp_path / "data"),
        "VLARL_GPUS": "0,1",
        "MUJOCO_EGL_DEVICE_ID": "1",
        "CUDA_VISIBLE_DEVICES": "4,5",
        "SLURM_JOB_ID": "17",
    }
    host.run("docker-run.sh", "doctor", **asked)
    assert host.called() == [
        *docker_line(host, runs=tmp_path / "scratch", extra=("--gpus", '"device=0,1"')),
        *("--mount", f"type=bind,source={tmp_path / 'data'},destination=/data,readonly"),
        *("--env", "MUJOCO_EGL_DEVICE_ID=1", "--env", "SLURM_JOB_ID=17", "--env", f"VLARL_IMAGE_DIGEST={DIGEST}"),
        *("--workdir", str(host.here), "vlarl:cuda", "doctor"),
    ]
    host.run("docker-run.sh", "doctor", VLARL_GPUS="all", CUDA_VISIBLE_DEVICES="4,5")
    called = host.called()
    assert called[called.index("--gpus") + 1] == "all"
    assert "CUDA_VISIBLE_DEVICES=4,5" in called


def test_apptainer_gets_the_folders_and_the_digest(host: Host, tmp_path: Path) -> None:
    image = host.here / "vlarl.sif"
    image.write_bytes(b"image")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (host.here / "runs").symlink_to(scratch)
    done = host.run("apptainer-run.sh", "resume", "last", VLARL_GPUS="0,1", SLURM_JOB_ID="17", HF_TOKEN="hf_secret")
    assert done.returncode == 75, done.stderr
    digest = subprocess.run(["sha256sum", image], text=True, capture_output=True, check=True).stdout.split()[0]
    assert host.called() == [
        *("run", "--cleanenv", "--no-home", "--pwd", str(host.here), "--nv"),
        *("--mount", f"type=bind,source={host.here},destination={host.here}"),
        *("--mount", f"type=bind,source={scratch},destination={scratch}"),
        *("--mount", f"type=bind,source={host.home / '.cache/vlarl'},destination=/cache"),
        *("vlarl.sif", "resume", "last"),
        "APPTAINERENV_CUDA_VISIBLE_DEVICES=0,1",
        "APPTAINERENV_SLURM_JOB_ID=17",
        f"APPTAINERENV_VLARL_IMAGE_DIGEST=sha256:{digest}",
    ]


PLACE = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "NCCL_SOCKET_IFNAME": "ib0",
    "GLOO_SOCKET_IFNAME": "eth0",
}


def test_one_of_several_processes_is_told_its_place(host: Host) -> None:
    (host.here / "vlarl.sif").touch()
    host.run("apptainer-run.sh", "train", "smoke", **PLACE)
    assert {f"APPTAINERENV_{name}={value}" for name, value in PLACE.items()} <= set(host.called())
    host.run("docker-run.sh", "train", "smoke", **PLACE)
    called = host.called()
    assert {f"{name}={value}" for name, value in PLACE.items()} <= set(called)
    assert called[called.index("--network") + 1] == "host", "or they would not meet"
    host.run("docker-run.sh", "train", "smoke", **{**PLACE, "WORLD_SIZE": "1"})
    assert "none" in host.called()


@pytest.mark.parametrize(
    ("variables", "offline"),
    [
        ({}, None),
        ({"VLARL_NETWORK": "bridge"}, "0"),
        ({"VLARL_NETWORK": "bridge", "HF_HUB_OFFLINE": "1"}, "1"),
        ({"HF_HUB_OFFLINE": "0"}, "0"),
    ],
)
def test_an_image_asks_no_hub_unless_it_is_given_a_network(
    host: Host, variables: dict[str, str], offline: str | None
) -> None:
    host.run("docker-run.sh", "doctor", **variables)
    assert [word for word in host.called() if "OFFLINE" in word] == ([f"HF_HUB_OFFLINE={offline}"] if offline else [])


def test_the_folder_is_there_under_the_name_the_user_knows_too(host: Host, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(host.here)
    done = host.run("docker-run.sh", "train", f"{link}/r.yaml", "--runs", f"{link}/runs", cwd=link, PWD=str(link))
    assert done.returncode == 75, done.stderr
    called = host.called()
    for name in ("", "/runs"):
        assert f"type=bind,source={host.here}{name},destination={link}{name}" in called
    assert called[called.index("--workdir") + 1] == str(host.here)
    host.run("docker-run.sh", "doctor", cwd=link)
    assert not any(str(link) in word for word in host.called()), "where the shell says nothing of it"


@pytest.mark.parametrize("script", WRAPPERS)
def test_nothing_is_run_in_the_root_folder(host: Host, script: str) -> None:
    done = host.run(script, "doctor", cwd=Path("/"))
    assert done.returncode == 2
    assert "hint: go to the folder" in done.stderr


@pytest.mark.parametrize("script", WRAPPERS)
@pytest.mark.parametrize(
    "words",
    [
        ("--runs", "/elsewhere/runs"),
        ("--runs=/elsewhere/runs",),
        ("--runs", "../runs"),
        ("--out", "{here}/../out"),
        ("--out", "{here}/outside/report.html"),  # a link that leads out
        ("--set", "run.folder=/elsewhere"),
        ("--set", "run.folder=~/runs"),
        ("--set=run.cache=/elsewhere",),
        ("/elsewhere/recipe.yaml",),
        ("../recipe.yaml",),
        ("--set", "policy.checkpoint=/models/openvla"),
    ],
)
def test_a_place_that_the_container_does_not_see_is_refused(host: Host, script: str, words: tuple[str, ...]) -> None:
    (host.here / "vlarl.sif").touch()
    (host.here / "outside").symlink_to("/elsewhere")
    # The folders of tests lie in /tmp, which Apptainer shares.
    done = host.run(script, "train", *(word.format(here=host.here) for word in words), "--seed-is-no-path=1/2")
    if script == "apptainer-run.sh" and any(".." in word for word in words):
        assert done.returncode == 75
        return
    assert done.returncode == 2, done.stderr
    assert "does not see" in done.stderr
    assert {"VLARL_RUNS", "VLARL_DATA"} <= set(re.findall(r"VLARL_[A-Z]+", done.stderr))
    assert not host.said.exists()


@pytest.mark.parametrize("script", WRAPPERS)
@pytest.mark.parametrize(
    "words",
    [
        ("train", "smoke", "--runs", "runs"),
        ("train", "recipes/a.yaml", "--set", "run.cache=/cache/x", "--set", "suite.name=a/b"),
        ("train", "/data/a.yaml", "--set", "imitation.demonstrations=/data/demos"),
        ("eval", "--checkpoint", "hf://owner/name@commit", "--out", "{here}/new/a.json"),
        ("report", "{here}/runs/a", "--out", "runs/a/b.html"),
        ("train", "/recipes/smoke.yaml", "--set", "run.cache=~/.cache/vlarl"),
    ],
)
def test_a_place_that_the_container_sees_is_passed_on(host: Host, script: str, words: tuple[str, ...]) -> None:
    (host.here / "vlarl.sif").touch()
    done = host.run(script, *(word.format(here=host.here) for word in words))
    assert done.returncode == 75, done.stderr


def test_a_link_to_a_scratch_disk_is_seen(host: Host) -> None:
    (host.here / "runs").symlink_to("/dev/shm")
    done = host.run("docker-run.sh", "--print", "report", "runs/a", "--out", "runs/a/b.html")
    assert done.returncode == 0, done.stderr


def test_without_gpus_none_are_handed_in(host: Host) -> None:
    (host.here / "vlarl.sif").touch()
    host.run("apptainer-run.sh", "doctor", CUDA_VISIBLE_DEVICES="0")
    assert "--nv" not in host.called()
    assert not any("CUDA" in word for word in host.called())


@pytest.mark.parametrize("script", WRAPPERS)
def test_the_chosen_kernels_reach_the_container(host: Host, script: str) -> None:
    (host.here / "vlarl.sif").touch()
    asked, other = (host.run(script, "--print", "doctor", VLARL_INSTRUCTIONS=word).stdout for word in ("avx2", ""))
    assert "VLARL_INSTRUCTIONS=avx2 " in asked
    assert "INSTRUCTIONS" not in other


@pytest.mark.parametrize(("script", "program"), [("docker-run.sh", "docker"), ("apptainer-run.sh", "apptainer")])
def test_the_command_can_be_printed_instead(host: Host, script: str, program: str) -> None:
    (host.here / "vlarl.sif").touch()
    done = host.run(script, "--print", "eval", "--out", "a b")
    assert done.returncode == 0
    words = shlex.split(done.stdout)
    assert program in words
    assert words[-3:] == ["eval", "--out", "a b"]
    assert not host.said.exists()
    assert not (host.here / "runs").exists()


@pytest.mark.parametrize("script", WRAPPERS)
def test_the_command_is_printed_without_an_image_or_an_engine(host: Host, script: str) -> None:
    for program in host.programs.iterdir():
        program.unlink()
    done = host.run(script, "--print", "doctor", VLARL_IMAGE="absent")
    assert done.returncode == 0, done.stderr
    assert "VLARL_IMAGE_DIGEST=sha256:DIGEST" in done.stdout
    assert host.run(script, "--print", "doctor", VLARL_IMAGE_DIGEST=DIGEST).stdout.count(DIGEST) == 1


@pytest.mark.parametrize("script", WRAPPERS)
def test_a_missing_image_is_said_with_the_way_to_make_it(host: Host, script: str) -> None:
    done = host.run(script, "doctor", VLARL_IMAGE="absent")
    assert done.returncode == 4
    assert "hint: " in done.stderr
    assert "build" in done.stderr
    assert not host.said.exists()


def test_a_folder_that_no_container_can_mount_is_refused(host: Host) -> None:
    done = host.run("docker-run.sh", "doctor", VLARL_CACHE="/tmp/a,b")
    assert done.returncode == 2
    assert "comma" in done.stderr


@pytest.mark.parametrize(("script", "program"), [("docker-run.sh", "docker"), ("apptainer-run.sh", "apptainer")])
def test_a_wrapper_becomes_the_runtime_and_so_gets_its_signals(host: Host, script: str, program: str) -> None:
    (host.here / "vlarl.sif").touch()
    inspect = f'[ "$1" != image ] || {{ echo {DIGEST}; exit; }}\n'
    host.program(program, f"{inspect}exec {PATIENT}")
    command = ["bash", str(CONTAINERS / script), "train", "smoke"]
    with subprocess.Popen(command, cwd=host.here, env=host.environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid  # no shell stands between
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 75
