"""The table of a study: a row a cell, with intervals over seeds, differences to the baseline, times to a threshold."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vlarl import seeding
from vlarl.intervals import Interval, wilson
from vlarl.intervals_bootstrap import (
    difference_interval,
    interquartile_interval,
    interquartile_mean,
    mean_interval,
    mean_rate,
    ratio_interval,
    seeds_to_settle,
)
from vlarl.recipe.specs.study import StudySpec, ThresholdSpec
from vlarl.results_study import RunResult
from vlarl.results_study_coverage import CoverageRow, coverage_rows


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell. Rates and differences are shares, not per cent; None where there is nothing to say."""

    cell: str
    seeds: int  # of finished runs
    of_seeds: int  # that the study asks for
    k: int  # successes of the last evaluations, over all seeds
    n: int
    pooled: Interval | None  # Wilson: covers the choice of episodes, not that of seeds
    mean: float | None  # over seeds
    mean_interval: Interval | None
    iqm: float | None  # over seeds x tasks
    iqm_interval: Interval | None
    pairs: int  # seeds shared with the baseline
    difference: float | None  # to the baseline
    difference_interval: Interval | None
    seeds_to_settle: int | None  # where the difference's interval holds zero
    times: Mapping[int, int] | None  # seed -> env steps until the threshold, the budget where it was not reached
    censored: int  # runs that did not reach it
    ratio: float | None  # of env steps, to the baseline
    ratio_interval: Interval | None
    ratio_bound: str  # `>=` where censored runs make the ratio too small, `<=` where they make it too large
    seconds: float | None  # of one run, mean
    paper: float | str | None
    note: str | None


@dataclass(frozen=True, kw_only=True)
class Table:
    rows: tuple[Row, ...]
    baseline: str
    threshold: float | None  # success rate
    notes: tuple[str, ...]
    coverage: tuple[CoverageRow, ...] = ()  # of the cells whose runs counted their actions


def make_table(spec: StudySpec, runs: Sequence[RunResult]) -> Table:
    """The table of what is finished."""
    done = {name: {run.seed: run for run in runs if run.cell == name and run.state == "done"} for name in spec.cells}
    base = done[spec.baseline]
    threshold = _threshold(spec.threshold, base)
    rows, notes = [], list(_notes(runs))
    for name, cell in spec.cells.items():
        shared = sorted(done[name].keys() & base.keys()) if name != spec.baseline else []
        comparable = [s for s in shared if done[name][s].protocol_digest == base[s].protocol_digest]
        if len(comparable) < len(shared):
            notes.append(f"{name} was evaluated under another protocol than {spec.baseline}, so they are not paired")
        times = _times(spec.threshold, threshold, done[name])
        pairs = [(done[name][seed], base[seed]) for seed in comparable]
        against = [(times[s], _times(spec.threshold, threshold, base)[s]) for s in comparable] if times else []
        rows.append(
            Row(
                cell=name,
                of_seeds=len(cell.seeds or spec.seeds),
                paper=cell.paper,
                note=cell.note,
                **_levels(list(done[name].values())),
                **_difference(pairs),
                **_ratio(against),
                times={seed: time for seed, (time, _) in times.items()} if times else None,
                censored=sum(not reached for _, reached in times.values()),
            )
        )
    return Table(
        rows=tuple(rows),
        baseline=spec.baseline,
        threshold=threshold,
        notes=tuple(notes),
        coverage=coverage_rows({name: list(own.values()) for name, own in done.items()}),
    )


def time_to_threshold(run: RunResult, threshold: float, window: int) -> tuple[int, bool]:
    """Env steps at the end of the first ``window`` evaluations whose mean is at or above it, and whether there is one.

    Where there is none: the env steps of the whole run.
    """
    points = run.evaluations
    for end in range(window, len(points) + 1):
        # Of counts: a mean of rates that equals the threshold must not miss it by a rounding.
        if sum(point.rate for point in points[end - window : end]) / window >= threshold - 1e-12:
            return points[end - 1].env_steps, True
    return run.env_steps, False


def _threshold(spec: ThresholdSpec | None, base: Mapping[int, RunResult]) -> float | None:
    if spec is None or spec.success is not None:
        return spec.success if spec else None
    tails = [run.evaluations[-spec.window :] for run in base.values()]
    return float(np.mean([np.mean([point.rate for point in tail]) for tail in tails])) if tails else None


def _times(
    spec: ThresholdSpec | None, threshold: float | None, runs: Mapping[int, RunResult]
) -> dict[int, tuple[int, bool]]:
    if spec is None or threshold is None:
        return {}
    return {seed: time_to_threshold(run, threshold, spec.window) for seed, run in sorted(runs.items())}


def _generator(*purpose: str) -> np.random.Generator:
    """The same results give the same intervals."""
    return seeding.generator(0, "bootstrap", *purpose)


def _levels(runs: list[RunResult]) -> dict[str, Any]:
    """Final success of one cell."""
    if not runs:
        names = ("pooled", "mean", "mean_interval", "iqm", "iqm_interval", "seconds")
        return {"seeds": 0, "k": 0, "n": 0, **dict.fromkeys(names)}
    runs = sorted(runs, key=lambda run: run.seed)
    k, n = _counts(runs)
    total, of = int(k.sum()), int(n.sum())
    return {
        "seeds": len(runs),
        "k": total,
        "n": of,
        "pooled": wilson(total, of),
        "mean": mean_rate(k, n),
        "mean_interval": mean_interval(k, n, _generator("mean")),
        "iqm": interquartile_mean(k / n),
        "iqm_interval": interquartile_interval(k, n, _generator("iqm")),
        "seconds": float(np.mean([run.seconds for run in runs])),
    }


def _counts(runs: Sequence[RunResult]) -> tuple[np.ndarray, np.ndarray]:
    """Successes and episodes, each (S, T)."""
    k = [[marks.count("1") for marks in run.outcomes.values()] for run in runs]
    n = [[len(marks) for marks in run.outcomes.values()] for run in runs]
    return np.array(k), np.array(n)


def _difference(pairs: Sequence[tuple[RunResult, RunResult]]) -> dict[str, Any]:
    if not pairs:
        return {"pairs": 0, "difference": None, "difference_interval": None, "seeds_to_settle": None}
    gained, lost = (np.array([_changes(own, base, mark) for own, base in pairs]) for mark in ("10", "01"))
    _, n = _counts([own for own, _ in pairs])
    by_seed = (gained - lost).sum(axis=1) / n.sum(axis=1)
    interval = difference_interval(gained, lost, n, _generator("difference"))
    unsettled = interval.low <= 0.0 <= interval.high
    return {
        "pairs": len(pairs),
        "difference": float(by_seed.mean()),
        "difference_interval": interval,
        "seeds_to_settle": seeds_to_settle(by_seed) if unsettled else None,
    }


def _changes(own: RunResult, base: RunResult, mark: str) -> list[int]:
    """Per task, episodes with that outcome here and there."""
    return [
        sum(a + b == mark for a, b in zip(marks, base.outcomes[task], strict=True))
        for task, marks in own.outcomes.items()
    ]


def _ratio(against: Sequence[tuple[tuple[int, bool], tuple[int, bool]]]) -> dict[str, Any]:
    own, base = (np.array([pair[at][0] for pair in against], dtype=float) for at in (0, 1))
    if not against or not base.mean() > 0:
        return {"ratio": None, "ratio_interval": None, "ratio_bound": ""}
    interval = ratio_interval(own, base, _generator("ratio")) if (base > 0).all() else None
    own_reached, base_reached = (all(pair[at][1] for pair in against) for at in (0, 1))
    bound = "" if own_reached == base_reached else "<=" if own_reached else ">="
    return {"ratio": float(own.mean() / base.mean()), "ratio_interval": interval, "ratio_bound": bound}


def _notes(runs: Sequence[RunResult]) -> list[str]:
    codes = {run.code for run in runs}
    return [f"the runs were made by {len(codes)} states of the code"] if len(codes) > 1 else []


# Text

_COLUMNS = ("cell", "seeds", "success", "mean over seeds", "IQM", "difference", "steps to threshold", "paper", "note")


def row_cells(row: Row, *, timed: bool) -> tuple[str, ...]:
    """Cells of the Markdown table, in per cent; ``steps to threshold`` is there only for a study that asks for it."""
    cells = (
        row.cell,
        f"{row.seeds}" if row.seeds == row.of_seeds else f"{row.seeds} of {row.of_seeds}",
        f"{row.k}/{row.n} {percent(row.k / row.n, row.pooled)}" if row.n else "–",
        percent(row.mean, row.mean_interval),
        percent(row.iqm, row.iqm_interval),
        difference_text(row),
        *([ratio_text(row)] if timed else []),
        paper_text(row.paper),
        row.note or "",
    )
    return tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in cells)


def columns(*, timed: bool) -> tuple[str, ...]:
    return tuple(name for name in _COLUMNS if timed or name != "steps to threshold")


def percent(value: float | None, interval: Interval | None) -> str:
    """``78.1 [72.0, 83.4]``."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}" + (f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]" if interval else "")


def points(value: float, interval: Interval | None) -> str:
    """``+3.1 [-0.4, +6.6]``."""
    return f"{100 * value:+.1f}" + (f" [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]" if interval else "")


def difference_text(row: Row) -> str:
    if row.difference is None or row.difference_interval is None:
        return "–"
    settle = f"; {row.seeds_to_settle} seeds to settle" if row.seeds_to_settle else ""
    return points(row.difference, row.difference_interval) + settle


def ratio_text(row: Row) -> str:
    """``≥ x 1.25 [1.11, 1.43], 204,800 steps, 3 of 3 never``."""
    ratio, interval, *rest = ratio_lines(row)
    return ", ".join([f"{ratio} {interval}".rstrip(), *filter(None, rest)])


def ratio_lines(row: Row) -> list[str]:
    """Ratio, its interval, steps, how many never got there; what is not there is empty."""
    if row.times is None:
        return ["–", ""]
    steps = f"{sum(row.times.values()) / len(row.times):,.0f} steps"
    never = f"{row.censored} of {len(row.times)} never" if row.censored else ""
    if row.ratio is None:
        return [steps, "", never]
    bound, interval = {">=": "≥ ", "<=": "≤ "}.get(row.ratio_bound, ""), row.ratio_interval
    between = f"[{interval.low:.2f}, {interval.high:.2f}]" if interval else ""
    return [f"{bound}x {row.ratio:.2f}", between, steps, never]


def paper_text(paper: float | str | None) -> str:
    return "" if paper is None else paper if isinstance(paper, str) else f"{paper:.1f}"


def markdown(table: Table, name: str) -> str:
    """The table with the sentences that say how to read it."""
    timed = table.threshold is not None
    head = columns(timed=timed)
    lines = [f"# {name}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row_cells(row, timed=timed))} |" for row in table.rows]
    lines += ["", *(f"- {note}" for note in legend(table))]
    if table.coverage:
        lines += ["", COVERAGE_NOTE, "", f"| {' | '.join(COVERAGE_COLUMNS)} |", f"|{'---|' * len(COVERAGE_COLUMNS)}"]
        lines += [f"| {' | '.join(coverage_cells(row))} |" for row in table.coverage]
    return "\n".join(lines) + "\n"


COVERAGE_COLUMNS = ("cell", "seeds", "before RL", "after RL", "change")
COVERAGE_NOTE = (
    "Share of the plane of x and y commands that the policy's actions use, in per cent: 100 when actions fall into all "
    "its 256 cells alike, 0.4 when into one. Mean over seeds, 95 % bootstrap over seeds."
)


def coverage_cells(row: CoverageRow) -> tuple[str, ...]:
    return (
        row.cell.replace("|", "\\|"),
        str(row.seeds),
        percent(row.before.value, row.before.interval),
        percent(row.after.value, row.after.interval),
        points(row.change.value, row.change.interval),
    )


def legend(table: Table) -> list[str]:
    """How to read the columns, and what is doubtful."""
    notes = [
        "Last evaluation of each finished run, in per cent. *success*: over all seeds, Wilson 95 % interval, which "
        "covers the choice of episodes alone. *mean over seeds* and *IQM* (interquartile mean over seeds x tasks): "
        "95 % bootstrap intervals over seeds and episodes.",
        f"*difference*: to `{table.baseline}`, in points, on the same seeds and held-out episodes, seed-paired "
        "bootstrap.",
    ]
    if table.threshold is not None:
        notes.append(
            f"*steps to threshold*: env steps until {100 * table.threshold:.1f} %, mean over seeds, and their ratio to "
            f"`{table.baseline}`, seed-paired bootstrap; a run that never got there counts with its whole budget."
        )
    if min(row.seeds for row in table.rows) < 5:
        notes.append("A bootstrap over fewer than five seeds is too narrow: read its intervals as lower bounds.")
    return [*notes, *(f"{note}." for note in table.notes)]


def csv_text(table: Table) -> str:
    """Every number of the rows, shares and not per cent."""
    covered = {row.cell: row for row in table.coverage}
    rows = [{**_flat(row), **_flat_coverage(covered.get(row.cell))} for row in table.rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in asdict(row).items():
        stem = name.removesuffix("_interval")
        if name in ("pooled", "mean_interval", "iqm_interval", "difference_interval", "ratio_interval"):
            flat |= _ends(stem, value)
        elif name == "times":
            flat["env_steps_to_threshold"] = sum(value.values()) / len(value) if value else None
        else:
            flat[name] = value
    return _rounded(flat)


def _flat_coverage(row: CoverageRow | None) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    values = {} if row is None else asdict(row)
    for name in ("before", "after", "change"):
        mean = values.get(name) or {"value": None, "interval": None}
        flat |= {f"coverage_{name}": mean["value"], **_ends(f"coverage_{name}", mean["interval"])}
    return _rounded(flat)


def _ends(stem: str, interval: Mapping[str, float] | None) -> dict[str, Any]:
    return {f"{stem}_{end}": interval[end] if interval else None for end in ("low", "high")}


def _rounded(flat: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in flat.items()}


def table_data(table: Table) -> dict[str, Any]:
    return {**asdict(table), "rows": [asdict(row) for row in table.rows]}
