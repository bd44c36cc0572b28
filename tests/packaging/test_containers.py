"""What images are made of reaches the build; wrappers and the Slurm template give exactly these commands."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import environment

ROOT = environment.ROOT
CONTAINERS = ROOT / "containers"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DEFINITION = (CONTAINERS / "vlarl.def").read_text()
INSTALL = (CONTAINERS / "install.sh").read_text()
SCRIPTS = ("docker-run.sh", "apptainer-run.sh", "folders.sh", "slurm.sbatch", "install.sh")
DIGEST = "sha256:" + "ab" * 32
# A program that says its process number, waits, and ends as vlarl does on a signal.
_WAITS = (
    "import os, signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); print(os.getpid(), flush=True)"
)
PATIENT = f"{shlex.quote(sys.executable)} -c {shlex.quote(_WAITS + '; signal.pause()')}"


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
    assert variables_of(DOCKERFILE) >= variables_of(DEFINITION) > {("PYTHONNOUSERSITE", "1"), ("HOME", "/home/vlarl")}


def variables_of(text: str) -> set[tuple[str, str]]:
    """NAME=VALUE of Docker's ENV or of the definition's %environment."""
    block = re.search(r"^ENV ((?:.*\\\n)*.*)|^%environment\n((?:    .*\n)*)", text, re.MULTILINE)
    assert block is not None
    return set(re.findall(r"\b([A-Z_]+)=([^\s\\]+)", block[1] or block[2]))


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


@pytest.mark.parametrize("name", ["docker-run.sh", "apptainer-run.sh"])
def test_a_wrapper_can_be_executed(name: str) -> None:
    assert os.access(CONTAINERS / name, os.X_OK)


class Host:
    """A folder with recipes, and stand-ins for programs that note how they are called."""

    def __init__(self, folder: Path) -> None:
        self.here = folder / "here"
        self.home = folder / "home"
        self.programs = folder / "bin"
        self.said = folder / "said"
        for made in (self.here, self.home, self.programs):
            made.mkdir()
        self.environ = {"PATH": f"{self.programs}:{os.environ['PATH']}", "HOME": str(self.home)}

    def program(self, name: str, body: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def run(self, script: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(CONTAINERS / script), *words]
        environ = {**self.environ, **variables}
        return subprocess.run(command, cwd=self.here, env=environ, text=True, capture_output=True, check=False)

    def called(self) -> list[str]:
        return self.said.read_text().split("\0")[:-1]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    host.program(
        "docker",
        f'if [ "$1 $2" = "image inspect" ]; then [ "${{@: -1}}" != absent ] && echo {DIGEST}; exit; fi\n'
        f"printf '%s\\0' \"$@\" >{host.said}; exit 75",
    )
    host.program(
        "apptainer", f"{{ printf '%s\\0' \"$@\"; env -0 | grep -z ^APPTAINERENV_ | sort -z; }} >{host.said}; exit 75"
    )
    return host


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


def test_without_gpus_none_are_handed_in(host: Host) -> None:
    (host.here / "vlarl.sif").touch()
    host.run("apptainer-run.sh", "doctor", CUDA_VISIBLE_DEVICES="0")
    assert "--nv" not in host.called()
    assert not any("CUDA" in word for word in host.called())


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


@pytest.mark.parametrize("script", ["docker-run.sh", "apptainer-run.sh"])
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


SLURM = {"SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": str(ROOT)}


def test_the_template_asks_for_a_signal_to_itself_and_to_be_queued_again() -> None:
    options = re.findall(r"^#SBATCH --(\S+)", (CONTAINERS / "slurm.sbatch").read_text(), re.MULTILINE)
    assert {"requeue", "signal=B:TERM@120", "open-mode=append", "nodes=1"} <= set(options)


def test_every_line_of_the_template_is_explained() -> None:
    previous = ""
    for line in (CONTAINERS / "slurm.sbatch").read_text().splitlines():
        if line.startswith("#SBATCH") and "job-name" not in line and "ntasks" not in line and "output" not in line:
            assert previous.startswith("# "), line
        if not line.startswith("#SBATCH") or not previous.startswith("#SBATCH"):
            previous = line


def test_the_template_goes_on_with_an_unfinished_run(host: Host) -> None:
    host.program("vlarl", f"printf '%s\\0' \"$@\" >{host.said}")
    done = host.run("slurm.sbatch", "recipes/smoke.yaml", "--set", "seed=2", **SLURM)
    assert done.returncode == 0, done.stderr
    assert host.called() == ["train", "recipes/smoke.yaml", "--set", "seed=2", "--or-resume", "--display", "plain"]


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (75, True), (1, False), (4, False)])
def test_only_a_resumable_stop_is_queued_again(host: Host, status: int, requeued: bool) -> None:
    host.program("vlarl", f"exit {status}")
    host.program("scontrol", f"printf '%s\\0' \"$@\" >{host.said}")
    done = host.run("slurm.sbatch", "smoke", **SLURM)
    assert done.returncode == (0 if requeued else status)
    assert host.said.exists() is requeued
    assert not requeued or host.called() == ["requeue", "17"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_template_passes_the_signal_on_and_waits_for_the_checkpoint(host: Host, number: signal.Signals) -> None:
    host.program("vlarl", f"exec {PATIENT}")
    host.program("scontrol", f"printf '%s\\0' \"$@\" >{host.said}")
    command = ["bash", str(CONTAINERS / "slurm.sbatch"), "smoke"]
    environ = {**host.environ, **SLURM}
    with subprocess.Popen(command, cwd=host.here, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
    assert host.called() == ["requeue", "17"]


def test_the_template_runs_in_the_image_when_one_is_named(host: Host) -> None:
    image = host.here / "vlarl.sif"
    image.touch()
    host.program("scontrol", "exit 1")
    done = host.run("slurm.sbatch", "smoke", VLARL_IMAGE=str(image), CUDA_VISIBLE_DEVICES="0", **SLURM)
    assert done.returncode == 75  # refused by Slurm, so the status is left to tell what happened
    called = host.called()
    assert "--nv" in called
    assert called[called.index(str(image)) :][:3] == [str(image), "train", "smoke"]
