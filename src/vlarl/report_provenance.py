"""Where a run's numbers come from, in its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from html import escape
from typing import Any

from vlarl.report_data import ReportData, describe
from vlarl.report_html import section

_PACKAGES = ("torch", "mujoco", "transformers", "numpy", "gymnasium", "safetensors")
_CODE = ("run", "command", "recipe digest", "overrides", "last link")  # shown as code


def provenance_rows(data: ReportData) -> list[tuple[str, str]]:
    """(name, value) of what is known."""
    manifest = data.manifest
    code, machine = manifest.get("code") or {}, manifest.get("machine") or {}
    versions = (manifest.get("packages") or {}).get("versions") or {}
    determinism = manifest.get("determinism") or {}
    dirty = " with local changes" if code.get("dirty") else ""
    build = (manifest.get("packages") or {}).get("torch_build")
    packages = [f"{name} {versions[name]}" for name in _PACKAGES if name in versions]
    rows = [
        ("run", data.run),
        ("command", " ".join(manifest.get("command") or ())),
        ("recipe digest", manifest["recipe"]["digest"]),
        ("overrides", ", ".join(manifest["recipe"].get("overrides") or ())),
        ("code", f"{code['commit']}{dirty}" if code.get("commit") else None),
        ("packages", ", ".join(packages) + (f" (torch: {build})" if build and packages else "")),
        ("machine", _machine_text(machine)),
        ("processes", manifest.get("processes")),
        ("renderer", _renderer_text(machine.get("renderer"))),
        ("root seed", (manifest.get("seeds") or {}).get("root")),
        ("determinism", f"{determinism.get('requested')}, tier {determinism.get('tier')}" if determinism else None),
        ("last link", data.iterations[-1].get("chain") if data.iterations else None),
    ]
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def provenance(data: ReportData) -> str:
    rows = provenance_rows(data)
    body = f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{_value(name, text)}</dd>' for name, text in rows)}</dl>"
    if data.others:
        items = "".join(f"<li>{escape(describe(document))}</li>" for document in data.others)
        body += f'<details><summary>Other evaluations in this folder</summary><ul class="plain">{items}</ul></details>'
    if data.recipe:
        body += f"<details><summary>Recipe, all values</summary><pre>{escape(data.recipe)}</pre></details>"
    return section("Provenance", body)


def _value(name: str, text: str) -> str:
    return f"<code>{escape(text)}</code>" if name in _CODE else escape(text)


def _machine_text(machine: Mapping[str, Any]) -> str:
    memory = machine.get("memory_bytes")
    gpus = Counter(str(gpu.get("name")) for gpu in machine.get("gpus") or ())
    parts = [
        machine.get("cpu"),
        f"{machine['usable_cores']} cores" if machine.get("usable_cores") else None,
        f"{memory / 2**30:.0f} GiB memory" if memory else None,
        ", ".join(f"{count} x {name}" if count > 1 else name for name, count in gpus.items()) or "no GPU",
        machine.get("python"),
        machine.get("system"),
    ]
    return ", ".join(str(part) for part in parts if part) if machine else ""


def _renderer_text(renderer: Mapping[str, Any] | None) -> str:
    """Backend and strings; of libraries the names, since a digest says nothing to a reader."""
    shown = (
        (name, ", ".join(value) if isinstance(value, Mapping) else value) for name, value in (renderer or {}).items()
    )
    return ", ".join(f"{name} {value}" for name, value in shown)
