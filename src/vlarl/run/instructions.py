"""Vector instructions of the kernels that compute on the processor: its own widest, or AVX2 on every processor alike.

torch, oneDNN, MKL, OpenBLAS, numpy and Mesa each look at the processor and choose kernels for it; other kernels add
in another order, and so end in other last bits. Each has a variable that chooses for it, read when it is loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from vlarl.errors import EnvironmentUnusable
from vlarl.run.machine import cpu_flags

VARIABLE = "VLARL_INSTRUCTIONS"  # how programs that vlarl starts know


class Instructions(StrEnum):
    native = "native"
    avx2 = "avx2"


# What a processor with AVX2 and nothing wider chooses by itself. Of MKL it is the variable that leaves an AMD processor
# the kernels it has without: MKL_CBWR takes others. numpy's names are those of 2.4, which the locks have.
KERNELS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "LP_NATIVE_VECTOR_WIDTH": "256",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Zen",
}

_LEAVE_OUT = f"leave out `--instructions avx2` and `unset {VARIABLE}`"


def chosen(environment: Mapping[str, str] = os.environ) -> Instructions:
    return Instructions(environment.get(VARIABLE, Instructions.native))


def use_instructions() -> None:
    """Make this process and those that it starts compute with ``chosen()``; before numpy or torch is loaded.

    Raises EnvironmentUnusable where the processor has no AVX2, or a variable of ``KERNELS`` says something else.
    """
    missing = unset_variables(os.environ)
    assert not missing or not {"numpy", "torch"} & sys.modules.keys(), "numpy or torch has chosen its kernels already"
    os.environ.update(missing)


def unset_variables(environment: Mapping[str, str], cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """What is still to be set for the instructions that ``environment`` asks for; raises as ``use_instructions``."""
    if chosen(environment) is Instructions.native:
        return {}
    if "avx2" not in cpu_flags(cpuinfo):
        raise EnvironmentUnusable("this processor has no AVX2", code="E416", place=str(cpuinfo), hint=_LEAVE_OUT)
    others = [name for name, value in KERNELS.items() if environment.get(name, value) != value]
    if others:
        raise EnvironmentUnusable(
            "; ".join(f"{name} is {environment[name]}, kernels of AVX2 want {KERNELS[name]}" for name in others),
            code="E416",
            place="environment",
            hint=f"`unset {' '.join(others)}`, or {_LEAVE_OUT}",
        )
    return {name: value for name, value in KERNELS.items() if name not in environment}


def other_kernels(then: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Why sums ``here`` may not be those of ``then``, in words; None where the kernels are the same. Two manifests."""
    settings = [each.get("environment") or {} for each in (then, here)]
    changed = [name for name in KERNELS if settings[0].get(name) != settings[1].get(name)]
    if changed:
        words = [[each.get(name, "unset") for each in settings] for name in changed]
        return ", ".join(f"{name} was {old}, is {new}" for name, (old, new) in zip(changed, words, strict=True))
    models = [(each["machine"].get("cpu_model") or {}).get("family_model_stepping") for each in (then, here)]
    if KERNELS.items() <= settings[1].items() or None in models or models[0] == models[1]:
        return None
    return f"processor {models[0]}, here {models[1]}"
