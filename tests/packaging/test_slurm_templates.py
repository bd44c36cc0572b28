"""The Slurm templates: what they ask for, what they start, and when they queue themselves again."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest
from host import CONTAINERS, PATIENT, ROOT, TEMPLATES, Host

SLURM = {"SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NODELIST": "node[1-2]"}


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("slurm.sbatch", {"signal=B:TERM@120", "nodes=1"}),
        ("slurm-nodes.sbatch", {"signal=B:TERM@300", "nodes=2", "gpus-per-node=4", "ntasks-per-node=4"}),
    ],
)
def test_the_template_asks_for_a_signal_to_itself_and_to_be_queued_again(name: str, asked: set[str]) -> None:
    options = re.findall(r"^#SBATCH --(\S+)", (CONTAINERS / name).read_text(), re.MULTILINE)
    assert {"requeue", "open-mode=append", *asked} <= set(options)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_line_of_the_template_is_explained(name: str) -> None:
    previous = ""
    for line in (CONTAINERS / name).read_text().splitlines():
        if line.startswith("#SBATCH") and "job-name" not in line and "ntasks" not in line and "output" not in line:
            assert previous.startswith("# "), line
        if not line.startswith("#SBATCH") or not previous.startswith("#SBATCH"):
            previous = line


def test_the_template_goes_on_with_an_unfinished_run(host: Host) -> None:
    host.program("vlarl", f"printf '%s\\0' \"$@\" >{host.said}")
    done = host.run("slurm.sbatch", "recipes/smoke.yaml", "--set", "seed=2", **SLURM)
    assert done.returncode == 0, done.stderr
    assert host.called() == ["train", "recipes/smoke.yaml", "--set", "seed=2", "--or-resume", "--display", "plain"]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(("status", "requeued"), [(0, False), (75, True), (1, False), (4, False), (143, False)])
def test_only_a_resumable_stop_is_queued_again(cluster: Host, template: str, status: int, requeued: bool) -> None:
    cluster.program("vlarl", f"exit {status}")
    done = cluster.run(template, "smoke", **SLURM)
    assert done.returncode == (0 if requeued else status)
    assert cluster.said.exists() is requeued
    assert not requeued or cluster.called() == ["requeue", "17"]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    ("state", "requeued"),
    [
        ("RUNNING Reason=None", True),
        ("COMPLETING Reason=TimeLimit", True),  # the checkpoint took longer than the signal left time for
        ("COMPLETING Reason=None", False),  # scancel
    ],
)
def test_a_job_that_is_cancelled_stays_so(cluster: Host, template: str, state: str, requeued: bool) -> None:
    cluster.program("vlarl", "exit 75")
    done = cluster.run(template, "smoke", STATE=state, **SLURM)
    assert (done.returncode, cluster.said.exists()) == ((0, True) if requeued else (75, False))


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    ("count", "most", "requeued"), [("49", None, True), ("50", None, False), ("3", "3", False), ("2", "3", True)]
)
def test_a_job_that_gets_nowhere_does_not_come_back_for_ever(
    cluster: Host, template: str, count: str, most: str | None, requeued: bool
) -> None:
    cluster.program("vlarl", "exit 75")
    cap = {"VLARL_MAX_RESTARTS": most} if most else {}
    done = cluster.run(template, "smoke", SLURM_RESTART_COUNT=count, **cap, **SLURM)
    assert (done.returncode, cluster.said.exists()) == ((0, True) if requeued else (75, False))
    assert requeued or f"restarted {count} times, at most {most or 50} (VLARL_MAX_RESTARTS)" in done.stderr


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_template_passes_the_signal_on_and_waits_for_the_checkpoint(
    cluster: Host, template: str, number: signal.Signals
) -> None:
    cluster.program("vlarl", f"exec {PATIENT}")
    command = ["bash", str(CONTAINERS / template), "smoke"]
    environ = {**cluster.environ, **SLURM}
    with subprocess.Popen(command, cwd=cluster.here, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(2 if "nodes" in template else 1):
            assert process.stdout.readline()
        process.send_signal(number)
        assert process.wait(timeout=60) == 0
    assert cluster.called() == ["requeue", "17"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_signal_that_comes_before_anything_listens_is_a_stop_too(cluster: Host, template: str) -> None:
    """The run ends by the signal itself, as a Python does that is still importing."""
    cluster.program("vlarl", "echo started; exec sleep 60")
    command = ["bash", str(CONTAINERS / template), "smoke"]
    environ = {**cluster.environ, **SLURM}
    with subprocess.Popen(command, cwd=cluster.here, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(2 if "nodes" in template else 1):
            assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert cluster.called() == ["requeue", "17"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_trap_is_there_before_the_child(template: str) -> None:
    text = (CONTAINERS / template).read_text()
    assert text.index("\ntrap ") < text.index("--or-resume --display plain &")


def test_every_process_of_several_is_told_its_place(cluster: Host) -> None:
    told = cluster.here / "told"
    told.mkdir()
    names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT"
    cluster.program("vlarl", f'for name in {names}; do echo "$name=${{!name}}"; done >"{told}/$RANK"; echo "$@"')
    done = cluster.run("slurm-nodes.sbatch", "r.yaml", "--set", "seed=2", SLURM_NTASKS_PER_NODE="4", **SLURM)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["train r.yaml --set seed=2 --or-resume --display plain"] * 2
    for rank in range(2):
        assert dict(line.split("=") for line in (told / str(rank)).read_text().splitlines()) == {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": str(1 - rank),
            "LOCAL_WORLD_SIZE": "4",
            "MASTER_ADDR": "node1",
            "MASTER_PORT": "20017",
        }


def test_every_process_of_several_has_a_container_of_its_own(cluster: Host) -> None:
    image = cluster.here / "vlarl.sif"
    image.touch()
    cluster.program("apptainer", f"env >{cluster.here}/$APPTAINERENV_RANK.env; exit 75")
    done = cluster.run("slurm-nodes.sbatch", "smoke", VLARL_IMAGE=str(image), **SLURM)
    assert done.returncode == 0, done.stderr
    assert cluster.called() == ["requeue", "17"]
    told = [(cluster.here / f"{rank}.env").read_text() for rank in range(2)]
    assert all("APPTAINERENV_WORLD_SIZE=2\n" in text and "VLARL_IMAGE_DIGEST=sha256:" in text for text in told)


def test_the_template_runs_in_the_image_when_one_is_named(host: Host) -> None:
    image = host.here / "vlarl.sif"
    image.touch()
    host.program("scontrol", "exit 1")
    done = host.run("slurm.sbatch", "smoke", VLARL_IMAGE=str(image), CUDA_VISIBLE_DEVICES="0", **SLURM)
    assert done.returncode == 75  # refused by Slurm, so the status is left to tell what happened
    called = host.called()
    assert "--nv" in called
    assert called[called.index(str(image)) :][:3] == [str(image), "train", "smoke"]
