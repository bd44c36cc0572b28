"""The locks are those of pyproject.toml, complete, and hold nothing of the machine that made them."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import environment
import lock_files
from lock_format import Lock, Pin, needed, normalised, parse
from vlarl.run import installed

LOCKS = sorted((lock_files.ROOT / "locks").glob("*.txt"))


def test_locks_are_fresh_and_complete() -> None:
    assert [path.name for path in LOCKS] == ["cpu-py311.txt", "cpu-py312.txt", "cuda-py311.txt", "cuda-py312.txt"]
    assert lock_files.problems() == []


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_names_no_index_no_path_and_nothing_that_replaces_torch(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"https?:|file:|^-|--(?!hash=sha256:[0-9a-f]{64}( \\)?$)", text, re.MULTILINE)
    pins = parse(text).pins
    assert not {pin.name for pin in pins} & set(lock_files.FORBIDDEN)
    assert not any("/" in field for pin in pins for field in (pin.name, pin.version, *pin.parents))


def test_all_locks_agree_on_torch_and_mujoco() -> None:
    chosen = {tuple(parse(path.read_text()).versions[name] for name in ("torch", "mujoco")) for path in LOCKS}
    assert chosen == {("2.13.0", "3.1.6")}


def test_the_cpu_lock_drops_what_only_cuda_packages_need() -> None:
    pins = (
        Pin("cuda-bindings", "13.5.0", ("torch",)),
        Pin("cuda-finder", "1.0", ("cuda-bindings",)),
        Pin("linker", "1.0", ("cuda-finder", "triton")),
        Pin("numpy", "2.4.6", ("triton", "vlarl")),
        Pin("nvidia-cublas", "13.1", ("cuda-bindings",)),
        Pin("torch", "2.13.0", ("vlarl",)),
        Pin("triton", "3.7.1", ("torch",)),
    )
    assert lock_files.without_cuda(pins) == (Pin("numpy", "2.4.6", ("vlarl",)), Pin("torch", "2.13.0", ("vlarl",)))


def test_what_is_rendered_is_parsed_again() -> None:
    hashes = tuple(f"sha256:{digit * 64}" for digit in "ab")
    pins = (Pin("rich", "15.0.0", ("typer", "vlarl"), hashes), Pin("typer", "0.29.2", ("vlarl",)))
    text = lock_files.render("cpu", "3.11", pins, digest="sha256:00", date="2026-01-02", maker="uv 1")
    lock = parse(text)
    assert lock.pins == pins
    assert lock.header["inputs"] == "sha256:00"
    assert lock.header["index-date"] == "2026-01-02"


def test_what_uv_resolves_is_parsed() -> None:
    found = parse("# a comment\nrich==15.0.0  # via typer, vlarl (pyproject.toml)\ntyper==0.29.2  # via vlarl (x)\n")
    assert found.pins == (Pin("rich", "15.0.0", ("typer", "vlarl")), Pin("typer", "0.29.2", ("vlarl",)))


@pytest.mark.parametrize("line", ["rich", "rich>=1", "rich==1 --hash=md5:00", "    --hash=sha256:00", "-e ."])
def test_a_line_that_is_none_of_a_locks_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        parse(f"typer==0.29.2  # via vlarl\n{line}\n")


def test_what_a_package_needs_is_found_through_those_that_need_it() -> None:
    pins = (
        Pin("app", "1", ("vlarl",)),
        Pin("deep", "1", ("middle", "other")),
        Pin("middle", "1", ("app",)),
        Pin("other", "1", ("vlarl",)),
        Pin("tool", "1", ("other",)),
    )
    assert [pin.name for pin in needed(pins, ["App"])] == ["app", "deep", "middle"]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_package_of_a_lock_is_needed_by_one_that_is(path: Path) -> None:
    pins = parse(path.read_text()).pins
    assert {parent for pin in pins for parent in pin.parents} <= {pin.name for pin in pins} | {"vlarl"}
    extras = environment.requirements(frozenset(environment.project_extras()))
    assert needed(pins, extras) == pins


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_the_package_reads_the_versions_of_a_lock(path: Path) -> None:
    text = path.read_text()
    assert installed.read_lock(text) == parse(text).versions


def digest(character: str) -> str:
    return "sha256:" + character * 64


def file_entry(kind: str, name: str, sha256: str) -> str:
    return f'{kind}{{ url = "https://index.example/{name}", hashes = {{ sha256 = "{sha256}" }} }}'


def test_wheels_that_fit_are_named_and_a_source_only_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """uv, for which this stands, lists of a release's wheels those that fit the platform asked for."""
    both = f"[{file_entry('', 'rich-1.whl', 'b' * 64)}, {file_entry('', 'rich-1-1.whl', 'a' * 64)}]"
    listing = (
        f'[[packages]]\nname = "rich"\nwheels = {both}\n{file_entry("sdist = ", "rich-1.tar.gz", "c" * 64)}\n'
        f'[[packages]]\nname = "bddl"\n{file_entry("sdist = ", "bddl-1.tar.gz", "d" * 64)}\n'
    )
    asked: list[str] = []

    def uv(command: list[str | Path], **_: object) -> subprocess.CompletedProcess[str]:
        asked.extend(map(str, command))
        Path(command[-1]).write_text(listing)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", uv)
    pins = (Pin("bddl", "1", ("vlarl",)), Pin("rich", "1", ("vlarl",)))
    found = lock_files._with_hashes("uv", "3.11", "2026-01-02", pins, None)
    assert [pin.hashes for pin in found] == [(digest("d"),), (digest("a"), digest("b"))]
    assert asked[asked.index("--exclude-newer") + 1] == "2026-01-02T00:00:00Z"
    assert {"x86_64-manylinux_2_28", "--no-deps"} <= set(asked)


class Download:
    """Stands for `pip download`: the index at ``place`` has the wheel, any other has nothing."""

    def __init__(self, place: str | None) -> None:
        self.place = place
        self.asked: list[str] = []

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        index = command[command.index("--index-url") + 1] if "--index-url" in command else "configured"
        self.asked.append(index)
        if index == self.place:
            folder = Path(command[command.index("--dest") + 1])
            (folder / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").write_bytes(b"a wheel")
        return subprocess.CompletedProcess(command, int(index != self.place))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TORCH_CPU_INDEX", "https://torch.example/cpu")
    return "https://torch.example/cpu"


@pytest.mark.parametrize("place", ["configured", "https://torch.example/cpu"])
def test_the_hash_of_the_cpu_build_is_that_of_the_wheel_at_hand(
    monkeypatch: pytest.MonkeyPatch, elsewhere: str, place: str
) -> None:
    download = Download(place)
    monkeypatch.setattr(subprocess, "run", download)
    other = Lock({}, (Pin("torch", "2.12.0", ("vlarl",), (digest("a"), digest("c"))),))
    found = lock_files._cpu_build("2.13.0", "3.11", [digest("a")], other)
    assert found == {"sha256:" + hashlib.sha256(b"a wheel").hexdigest()}
    assert download.asked == ["configured", elsewhere][: 1 + (place == elsewhere)]


def test_a_known_hash_of_the_cpu_build_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    download = Download(None)
    monkeypatch.setattr(subprocess, "run", download)
    present = Lock({}, (Pin("torch", "2.13.0", ("vlarl",), (digest("a"), digest("c"))),))
    assert lock_files._cpu_build("2.13.0", "3.12", [digest("a")], present) == {digest("c")}
    assert download.asked == []


@pytest.mark.usefixtures("elsewhere")
def test_a_cpu_build_that_cannot_be_had_gets_no_hash_and_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", Download(None))
    with pytest.raises(SystemExit, match=r"no torch 2\.13\.0\+cpu for Python 3\.12 .* nothing was written"):
        lock_files._cpu_build("2.13.0", "3.12", [digest("a")], None)


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        text = (root / name).read_text()
        assert re.search(old, text, re.MULTILINE), f"{name} has no {old}"
        (root / name).write_text(re.sub(old, new, text, count=1, flags=re.MULTILINE))

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (replace("pyproject.toml", r'"rich>=14"', '"rich>=13"'), "other dependencies than pyproject.toml"),
        (replace("pyproject.toml", r'"rich>=14"', '"rich>=99"'), "outside >=99"),
        (replace("pyproject.toml", r'"rich>=14"', '"newcomer"'), "does not pin newcomer"),
        (replace("locks/cuda-py311.txt", r"^rich==(.*\n)+?(?=\S)", ""), "cuda-py311.txt: does not pin rich"),
        (
            replace("locks/cpu-py312.txt", r"(^rich==\S+)( .*\n)+?(?=    #)", r"\1\n"),
            "cpu-py312.txt: has no hash of rich",
        ),
        (replace("locks/cuda-py312.txt", r"(^torch==.*\n).*\n", r"\1"), "cuda-py312.txt: has not the hashes of both"),
        (
            replace("locks/cuda-py312.txt", r"(^rich==.*\n.*sha256:).{8}", r"\g<1>00000000"),
            "differs from the CUDA lock",
        ),
        (replace("locks/cpu-py312.txt", r"^mypy==\S+", "mypy==1.99.0"), "cpu-py312.txt: differs from the CUDA lock"),
        (replace("locks/cpu-py311.txt", r"^rich==", "timm==1.0  # via vlarl\nrich=="), "pins timm"),
        (replace("locks/cpu-py311.txt", r"^rich==", "rich>="), "is not a pin: rich>="),
        (replace("locks/cpu-py311.txt", r"hash=sha256:.", "hash=sha256:x"), "is not a pin"),
        (lambda root: (root / "locks/cuda-py312.txt").unlink(), "cuda-py312.txt"),
    ],
)
def test_a_stale_or_damaged_lock_is_named(tmp_path: Path, edit: Callable[[Path], None], said: str) -> None:
    shutil.copytree(lock_files.ROOT / "locks", tmp_path / "locks")
    shutil.copy(lock_files.ROOT / "pyproject.toml", tmp_path)
    edit(tmp_path)
    assert any(said in problem for problem in lock_files.problems(tmp_path))


def installed_closure(*extras: str) -> dict[str, str]:
    """Version of every installed distribution that vlarl with ``extras`` needs, by normalised name."""
    found: dict[str, str] = {}
    source = lock_files.inputs()
    chosen = (one for extra in extras for one in source["optional-dependencies"][extra])
    direct = map(Requirement, [*source["dependencies"], *chosen])
    waiting = [(normalised(one.name), frozenset(["", *one.extras])) for one in direct]
    while waiting:
        name, extras = waiting.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # an optional package
        if name in found:
            continue
        found[name] = distribution.version
        waiting += [
            (normalised(needed.name), frozenset(["", *needed.extras]))
            for needed in map(Requirement, distribution.requires or ())
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    return found


def lock_of_this_environment() -> Lock:
    torch = metadata.distribution("torch").locate_file("torch/version.py")
    variant = "cuda" if re.search(r"^cuda\b[^=]*=\s*['\"]", Path(str(torch)).read_text(), re.MULTILINE) else "cpu"
    return parse(lock_files.lock_path(variant, f"{sys.version_info.major}.{sys.version_info.minor}").read_text())


def test_everything_installed_for_vlarl_is_pinned_at_that_version() -> None:
    """Fails in an environment that was not installed under the lock; `make dev` makes one that was."""
    pinned = lock_of_this_environment().versions
    found = {name: version.partition("+")[0] for name, version in installed_closure("dev").items()}
    assert len(found) > 50
    assert {name: version for name, version in found.items() if pinned.get(name) != version} == {}


@pytest.mark.parametrize("extras", [(), ("libero",), ("dev", "libero")], ids=lambda extras: "-".join(extras) or "plain")
def test_what_set_up_takes_from_the_lock_is_all_that_the_extras_need(extras: tuple[str, ...]) -> None:
    """By what the installed packages say they need, as `pip check` does, not by the lock's own notes of it."""
    chosen = needed(lock_of_this_environment().pins, environment.requirements(frozenset(extras)))
    assert set(installed_closure(*extras)) - {pin.name for pin in chosen} == set()
