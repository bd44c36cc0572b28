"""Kernels of AVX2 on every processor that has it: what is set, what is refused, and what the libraries make of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlarl import cli
from vlarl.errors import EnvironmentUnusable, Exit
from vlarl.run.instructions import KERNELS, VARIABLE, other_kernels, unset_variables, use_instructions
from vlarl.run.machine import ENVIRONMENT_VARIABLES, cpu_flags

ASKED = {VARIABLE: "avx2"}
LOADED = """
import json
from vlarl.run.instructions import use_instructions
use_instructions()
import numpy, torch
from numpy._core import _multiarray_umath as numpy_core
wide = [name for name in numpy_core.__cpu_dispatch__ if name not in ("X86_V3",)]
print(json.dumps({
    "torch": torch.backends.cpu.get_cpu_capability(),
    "numpy": [name for name in wide if numpy_core.__cpu_features__[name]],
}))
"""
needs_avx2 = pytest.mark.skipif("avx2" not in cpu_flags(), reason="this processor has no AVX2")


@pytest.fixture
def with_avx2(tmp_path: Path) -> Path:
    return _cpuinfo(tmp_path, "fpu fma avx2 avx512f")


def _cpuinfo(folder: Path, flags: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel\t\t: 17\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: other\n")
    return path


def test_nothing_is_set_unless_asked_for(with_avx2: Path) -> None:
    assert unset_variables({}, with_avx2) == {}
    assert unset_variables({VARIABLE: "native", "OPENBLAS_CORETYPE": "Haswell"}, with_avx2) == {}


def test_all_are_set_and_those_that_are_set_already_are_left(with_avx2: Path) -> None:
    assert unset_variables(ASKED, with_avx2) == KERNELS
    assert unset_variables({**ASKED, **KERNELS}, with_avx2) == {}
    rest = unset_variables({**ASKED, "ONEDNN_MAX_CPU_ISA": "AVX2"}, with_avx2)
    assert rest == {name: value for name, value in KERNELS.items() if name != "ONEDNN_MAX_CPU_ISA"}


def test_a_manifest_tells_every_one_of_them() -> None:
    assert KERNELS.keys() <= set(ENVIRONMENT_VARIABLES)


def test_a_variable_that_says_otherwise_is_refused(with_avx2: Path) -> None:
    with pytest.raises(EnvironmentUnusable) as raised:
        unset_variables({**ASKED, "ATEN_CPU_CAPABILITY": "default"}, with_avx2)
    assert raised.value.code == "E416"
    assert "ATEN_CPU_CAPABILITY is default, kernels of AVX2 want avx2" in str(raised.value)
    assert "unset ATEN_CPU_CAPABILITY" in str(raised.value.hint)


@pytest.mark.parametrize("flags", ["fpu avx", "avx2x", ""])
def test_a_processor_without_avx2_is_refused(tmp_path: Path, flags: str) -> None:
    with pytest.raises(EnvironmentUnusable) as raised:
        unset_variables(ASKED, _cpuinfo(tmp_path, flags))
    assert raised.value.code == "E416"
    assert raised.value.exit_status is Exit.ENVIRONMENT


def _manifest(model: str | None, environment: dict[str, str] | None = None) -> dict[str, Any]:
    known = {"family_model_stepping": model, "flags_sha256": "0"} if model else None
    return {"machine": {"cpu_model": known}, "environment": environment or {}}


def test_other_kernels_are_those_of_another_processor_or_setting() -> None:
    zen3, zen4 = _manifest("25/1/1"), _manifest("25/17/1")
    assert other_kernels(zen3, zen3) is None
    assert other_kernels(zen3, zen4) == "processor 25/1/1, here 25/17/1"
    assert other_kernels(_manifest("25/1/1", KERNELS), _manifest("25/17/1", KERNELS)) is None
    one = {"ATEN_CPU_CAPABILITY": "avx2"}
    assert other_kernels(zen3, _manifest("25/1/1", one)) == "ATEN_CPU_CAPABILITY was unset, is avx2"
    assert other_kernels(_manifest("25/1/1", one), _manifest("25/17/1", one)) == "processor 25/1/1, here 25/17/1"
    assert other_kernels(_manifest(None), zen4) is None, "what an older manifest does not say is not compared"


@needs_avx2
def test_after_numpy_it_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KERNELS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(VARIABLE, "avx2")
    monkeypatch.setitem(sys.modules, "numpy", pytest)
    with pytest.raises(AssertionError, match="already"):
        use_instructions()
    assert not KERNELS.keys() & os.environ.keys()


@needs_avx2
def test_torch_and_numpy_take_nothing_wider() -> None:
    clean = {name: value for name, value in os.environ.items() if name not in KERNELS}
    done = subprocess.run(
        [sys.executable, "-c", LOADED], env={**clean, **ASKED}, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {"torch": "AVX2", "numpy": []}


@pytest.mark.parametrize("by_option", [True, False])
def test_the_command_takes_the_option_and_the_variable(by_option: bool) -> None:
    """A variable that says otherwise shows that either was heard."""
    clean = {name: value for name, value in os.environ.items() if name not in {VARIABLE, *KERNELS}}
    words, variables = (["--instructions", "avx2"], {}) if by_option else ([], ASKED)
    done = subprocess.run(
        [sys.executable, "-m", "vlarl", *words, "list", "recipes", "--json"],
        env={**clean, **variables, "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.ENVIRONMENT, done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "E416"


def test_an_unknown_word_is_wrong_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vlarl", "list", "recipes"],
        env={**os.environ, VARIABLE: "sse"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.USAGE
    assert "sse" in done.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_after_the_command_its_place_is_told(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "smoke", "--instructions", "avx2", *(["--json"] if as_json else [])])
    assert ended.value.code == Exit.USAGE
    said = capsys.readouterr()
    assert "`--instructions` goes before the command" in (said.out if as_json else said.err)
