"""What a repetition found, as a page to keep, as JSON and in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlarl.errors import Exit
from vlarl.reproduce_chain import NONE, TIERS, Drift
from vlarl.reproduce_here import Difference

EQUAL, DIFFERS, NOT_COMPARED = "equal", "differs", "not compared"
WHOLE = "whole"  # rather than one stage
_MAX_ROWS = 40


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What was held against the run."""

    mode: str  # WHOLE, or the name of a stage
    iterations: tuple[int, ...]  # those that were asked for
    num_equal: int  # of them, before the first that is not
    num_recorded: int  # iterations the run did
    num_planned: int  # iterations of its recipe
    num_evaluations: int = 0
    warm_start: str = "no warm start"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """One repetition."""

    reference: Mapping[str, Any]  # the run's manifest
    here: Mapping[str, Any]  # the repetition's
    source: str  # folder of the run
    published: bool
    compared: Compared
    drift: Drift | None
    differences: tuple[Difference, ...]
    unrecorded: tuple[str, ...]
    chain: tuple[str | None, str | None] = (None, None)  # last link compared, then and here; here None: none was made
    repetition: str | None = None  # its run folder
    short_of_whole: str | None = None  # why an equal repetition is not T4

    @property
    def tiers(self) -> dict[str, str]:
        """Tier → equal, differs or not compared. Never more than was compared."""
        if self.drift is not None:
            return _tiers_of_drift(self.drift, self.compared.mode)
        shown = {
            "physics": ("T0", "T1"),
            "pixels": ("T0", "T1", "T2"),
            "update": ("T0", "T3"),
        }.get(self.compared.mode, tuple(TIERS) if self.short_of_whole is None else ("T0", "T1", "T2", "T3"))
        return {tier: EQUAL if tier in shown else NOT_COMPARED for tier in TIERS}

    @property
    def tier(self) -> str:
        """The highest that is equal."""
        return max((tier for tier, state in self.tiers.items() if state == EQUAL), default=NONE)

    @property
    def exit_status(self) -> Exit:
        return Exit.OK if self.drift is None else Exit.DRIFT

    def sentence(self) -> str:
        if self.drift is not None:
            return f"drift: {self.drift.sentence()}"
        return f"equal: {self.scope()}"

    def scope(self) -> str:
        compared = self.compared
        iterations = _ranges(compared.iterations)
        if compared.mode != WHOLE:
            return f"stage {compared.mode} of {iterations} of {compared.num_recorded}"
        whole = len(compared.iterations) == compared.num_recorded
        text = f"all {compared.num_recorded} iterations" if whole else f"{iterations} of {compared.num_recorded}"
        count = compared.num_evaluations
        evaluations = f", {count} evaluation{'s' * (count != 1)}" if count else ""
        return f"{text}{evaluations}; {compared.warm_start}"


def _tiers_of_drift(drift: Drift, mode: str) -> dict[str, str]:
    """Equal up to the drift's tier; the one above it differs where the drift is of what it means."""
    failed = {NONE: "T0", "T0": "T1", "T1": "T2", "T2": "T3", "T3": "T4"}[drift.tier]
    means = {"T0": ("recipe",), "T1": ("physics",), "T2": ("pixels",), "T3": ("update",)}
    states = {tier: EQUAL if tier <= drift.tier and drift.tier != NONE else NOT_COMPARED for tier in TIERS}
    if mode == "update":
        states |= dict.fromkeys(("T1", "T2"), NOT_COMPARED)
    if drift.stage in means.get(failed, ()):
        states[failed] = DIFFERS
    if mode == WHOLE:
        states["T4"] = DIFFERS
    return states


def certificate_text(done: Certificate) -> str:
    """Markdown, to be kept beside a result."""
    lines = [f"# {done.reference['run']}: {'equal' if done.drift is None else 'drift'}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in _facts(done)]
    lines += ["", "| tier | means | here |", "|---|---|---|"]
    lines += [f"| {tier} | {TIERS[tier]} | {state} |" for tier, state in done.tiers.items()]
    lines += ["", *_difference_lines(done.differences)]
    if done.unrecorded:
        lines += ["", "The run did not record", "", *(f"- {text}" for text in done.unrecorded)]
    return "\n".join(lines) + "\n"


def _facts(done: Certificate) -> list[tuple[str, str]]:
    then, here = done.reference, done.here
    facts = [
        ("outcome", done.sentence()),
        ("tier", f"{done.tier}: {TIERS[done.tier]}" if done.tier in TIERS else "none: not even the recipe is the same"),
    ]
    if done.drift is not None:
        facts.append(("asked for", done.scope()))
        facts.append(("equal before", f"{done.compared.num_equal} of {len(done.compared.iterations)} iterations"))
    elif done.short_of_whole is not None:
        facts.append(("not T4", done.short_of_whole))
    facts += [
        ("run", f"{done.source} ({'published' if done.published else 'run folder'}), of {then['started']}"),
        ("recipe", f"hash {then['recipe']['digest']}"),
        ("code then", _code(then)),
        ("code here", _code(here)),
        ("machine then", _machine(then)),
        ("machine here", _machine(here)),
    ]
    for stretch in then.get("resumed") or ():
        if other := stretch.get("here"):
            facts.append(("resumed", f"after {stretch['iteration']} iterations, with another {' and '.join(other)}"))
    if done.chain[1] is not None:
        facts.append(("last link compared", f"{done.chain[0]} then, {done.chain[1]} here"))
    if done.repetition is not None:
        facts.append(("repetition", done.repetition))
    facts.append(("date", str(here["started"])))
    return facts


def _difference_lines(differences: Sequence[Difference]) -> list[str]:
    matter = [one for one in differences if one.matters]
    others = len(differences) - len(matter)
    rest = f"{others} other difference{'s' * (others != 1)} that no result is known to depend on" if others else ""
    if not matter:
        return [f"No difference here that a result is known to depend on{f'; {rest}' if rest else ''}."]
    lines = ["| differs | name | then | here | can change |", "|---|---|---|---|---|"]
    for one in matter[:_MAX_ROWS]:
        cells = (one.kind, one.name, one.then or "none", one.here or "none", one.changes)
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    if len(matter) > _MAX_ROWS:
        lines.append(f"\nand {len(matter) - _MAX_ROWS} more; `--json` has them all.")
    return [*lines, *([f"\nAnd {rest}."] if rest else [])]


def certificate_json(done: Certificate) -> dict[str, Any]:
    """Fields of the `--json` document."""
    return {
        "run": done.reference["run"],
        "source": done.source,
        "published": done.published,
        "recipe_digest": done.reference["recipe"]["digest"],
        "commit": {"then": done.reference["code"].get("commit"), "here": done.here["code"].get("commit")},
        "compared": asdict(done.compared),
        "tier": done.tier,
        "tiers": done.tiers,
        "not_whole": done.short_of_whole,
        "drift": {**asdict(done.drift), "text": done.drift.sentence()} if done.drift is not None else None,
        "differences": [{**asdict(one), "matters": one.matters} for one in done.differences],
        "unrecorded": list(done.unrecorded),
        "chain": {"then": done.chain[0], "here": done.chain[1]},
        "repetition": done.repetition,
    }


def _code(manifest: Mapping[str, Any]) -> str:
    code = manifest["code"]
    commit = code.get("commit") or "no commit known"
    return f"vlarl {manifest['vlarl_version']}, {commit}{', with uncommitted changes' if code.get('dirty') else ''}"


def _machine(manifest: Mapping[str, Any]) -> str:
    machine = manifest["machine"]
    renderer = (machine.get("renderer") or {}).get("backend") or "no renderer"
    return f"{machine.get('cpu') or 'unknown processor'}, {machine['python']}, {renderer}"


def _ranges(iterations: Sequence[int]) -> str:
    if len(iterations) == 1:
        return f"iteration {iterations[0]}"
    if list(iterations) == list(range(iterations[0], iterations[-1] + 1)):
        return f"iterations {iterations[0]} to {iterations[-1]}"
    return "iterations " + ", ".join(map(str, iterations))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
