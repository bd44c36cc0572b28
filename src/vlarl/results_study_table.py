"""The table of a study: a row a cell, with intervals over seeds, differences to the baseline, times to a threshold."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vlarl.intervals import Interval
from vlarl.recipe.specs.study import StudySpec, ThresholdSpec
from vlarl.results_study import RunResult
from vlarl.results_study_coverage import CoverageRow, coverage_rows
from vlarl.results_study_numbers import Times, alike, difference, levels, ratio


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell. Rates and differences are shares, not per cent; None where there is nothing to say."""

    cell: str
    seeds: int  # of finished runs
    of_seeds: int  # that the study asks for
    k: int  # successes of the last evaluations, over all seeds
    n: int
    mean: float | None  # over seeds
    mean_interval: Interval | None
    iqm: float | None  # over seeds x tasks
    iqm_interval: Interval | None
    pairs: int  # seeds shared with the baseline
    difference: float | None  # to the baseline
    difference_interval: Interval | None
    seeds_to_settle: int | None  # where the difference's interval holds zero and there is enough to say
    times: Mapping[int, int] | None  # seed -> env steps until the threshold, the budget where it was not reached
    censored: int  # runs that did not reach it
    ratio: float | None  # of env steps, to the baseline
    ratio_interval: Interval | None
    ratio_bound: str  # `>=` where censored runs make it too small, `<=` too large, `both` where both sides have some
    baseline_censored: int  # of the baseline's runs that the ratio is over
    seconds: float | None  # of one run, mean
    paper: float | str | None
    note: str | None

    @property
    def holds_zero(self) -> bool:
        """Whether there is a difference, with zero in its interval."""
        interval = self.difference_interval
        return interval is not None and interval.low <= 0.0 <= interval.high


@dataclass(frozen=True, kw_only=True)
class Table:
    rows: tuple[Row, ...]
    baseline: str
    threshold: float | None  # success rate
    threshold_given: bool = False  # by the study's file, rather than estimated from the baseline's runs
    notes: tuple[str, ...]
    coverage: tuple[CoverageRow, ...] = ()  # of the cells whose runs' actions are known


def make_table(spec: StudySpec, runs: Sequence[RunResult]) -> Table:
    """The table of what is finished."""
    done: dict[str, dict[int, RunResult]] = {}
    notes = list(_notes(runs))
    for name in spec.cells:
        kept, left_out = alike([run for run in runs if run.cell == name and run.state == "done"])
        done[name] = {run.seed: run for run in kept}
        notes += [_left_out_text(name, left_out)] if left_out else []
    base = done[spec.baseline]
    threshold = _threshold(spec.threshold, base)
    rows = []
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
                **levels(list(done[name].values())),
                **difference(pairs),
                **ratio(against),
                times={seed: time for seed, (time, _) in times.items()} if times else None,
                censored=sum(not reached for _, reached in times.values()),
            )
        )
    return Table(
        rows=tuple(rows),
        baseline=spec.baseline,
        threshold=threshold,
        threshold_given=spec.threshold is not None and spec.threshold.success is not None,
        notes=tuple(notes),
        coverage=coverage_rows({name: list(own.values()) for name, own in done.items()}),
    )


def _left_out_text(cell: str, runs: Sequence[RunResult]) -> str:
    seeds = f"seed{'s' * (len(runs) > 1)} {', '.join(str(run.seed) for run in runs)}"
    was = "were" if len(runs) > 1 else "was"
    return f"{seeds} of {cell} {was} not evaluated on the tasks and episodes of the cell's other seeds and left out"


def time_to_threshold(run: RunResult, threshold: float, window: int) -> Times:
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


def _times(spec: ThresholdSpec | None, threshold: float | None, runs: Mapping[int, RunResult]) -> dict[int, Times]:
    if spec is None or threshold is None:
        return {}
    return {seed: time_to_threshold(run, threshold, spec.window) for seed, run in sorted(runs.items())}


def _notes(runs: Sequence[RunResult]) -> list[str]:
    codes = {run.code for run in runs}
    return [f"the runs were made by {len(codes)} states of the code"] if len(codes) > 1 else []


# Text

EPISODES_ONLY, NOT_ENOUGH = "episodes only", "not enough to say"
_COLUMNS = ("cell", "seeds", "success", "mean over seeds", "IQM", "difference", "steps to threshold", "paper", "note")


def row_cells(row: Row, *, timed: bool) -> tuple[str, ...]:
    """Cells of the Markdown table, in per cent; ``steps to threshold`` is there only for a study that asks for it."""
    cells = (
        row.cell,
        f"{row.seeds}" if row.seeds == row.of_seeds else f"{row.seeds} of {row.of_seeds}",
        f"{row.k}/{row.n}" if row.n else "–",
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
    """``+2.9 [-5.4, +11.2]; 28 seeds to settle``."""
    if row.difference is None or row.difference_interval is None:
        return "–"
    shown = " ".join(filter(None, (points(row.difference, row.difference_interval), pairs_text(row))))
    return "; ".join(filter(None, (shown, settle_text(row))))


def pairs_text(row: Row) -> str:
    """``(1 pair, episodes only)``: how many pairs, where that is fewer than seeds, and what a single one says."""
    count = f"{row.pairs} pair{'s' * (row.pairs > 1)}" if row.pairs < row.seeds else ""
    told = ", ".join(filter(None, (count, EPISODES_ONLY if row.pairs == 1 else "")))
    return f"({told})" if told and row.pairs else ""


def settle_text(row: Row) -> str:
    if not row.holds_zero:
        return ""
    known = row.seeds_to_settle
    return f"seeds to settle: {NOT_ENOUGH}" if known is None else f"{known:,} seeds to settle"


def ratio_text(row: Row) -> str:
    """``≥ x 1.25 [1.11, 1.43], 204,800 steps, 3 of 3 never``."""
    ratio, interval, *rest = ratio_lines(row)
    return ", ".join([f"{ratio} {interval}".rstrip(), *filter(None, rest)])


def ratio_lines(row: Row) -> list[str]:
    """Ratio, its interval, what cuts it off, steps, how many never got there; what is not there is empty."""
    if row.times is None:
        return ["–", ""]
    steps = f"{sum(row.times.values()) / len(row.times):,.0f} steps"
    never = f"{row.censored} of {len(row.times)} never" if row.censored else ""
    if row.ratio is None:
        return [steps, "", never]
    bound, interval = {">=": "≥ ", "<=": "≤ "}.get(row.ratio_bound, ""), row.ratio_interval
    between = f"[{interval.low:.2f}, {interval.high:.2f}]" if interval else ""
    both = "both cut off by the budget" if row.ratio_bound == "both" else ""
    baseline = f"baseline {row.baseline_censored} of {row.pairs}" if row.baseline_censored else ""
    return [f"{bound}x {row.ratio:.2f}", between, both, steps, never, baseline]


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
    unknown = coverage_unknown(table)
    return "\n".join([*lines, *(["", unknown] if unknown else [])]) + "\n"


COVERAGE_COLUMNS = ("cell", "seeds", "at step 0", "last evaluation", "change")
COVERAGE_NOTE = (
    "Share of the plane of x and y commands that the policy's actions use, in per cent: 100 when actions fall into all "
    "its 256 cells alike, 0.4 when into one. Of each run's evaluations at step 0 and at the end, on the same held-out "
    "episodes and decoded alike. Mean over seeds, 95 % bootstrap over seeds."
)


def coverage_unknown(table: Table) -> str:
    """Of which cells the spread of actions is not known; empty where it is of all."""
    known = {row.cell for row in table.coverage}
    unknown = [row.cell for row in table.rows if row.seeds and row.cell not in known]
    whose = f" of {', '.join(f'`{cell}`' for cell in unknown)}" if known else ""
    return f"Spread of actions{whose}: not known, the actions of the evaluations are not there." if unknown else ""


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
        "Last evaluation of each finished run, in per cent, on held-out init states that all seeds share. *success*: "
        "over all seeds. *mean over seeds* and *IQM* (interquartile mean over seeds x tasks): 95 % intervals by a "
        "crossed bootstrap, which draws seeds and, once for all of them together, init states. With one seed they "
        "cover the choice of episodes alone, and that of the mean is Wilson's.",
        f"*difference*: to `{table.baseline}`, in points, over the seeds of both, on the same episodes. Its 95 % "
        "interval is, at each end, the wider of Student's t over the seeds' differences, which covers other seeds, and "
        "a bootstrap over the episodes of these seeds, which covers other episodes. Several rows against one baseline "
        "are several comparisons, and nothing corrects for that.",
    ]
    if any(row.pairs == 1 for row in table.rows):
        notes.append(f"*{EPISODES_ONLY}*: the interval of a single pair of runs says nothing of other seeds.")
    if any(row.holds_zero for row in table.rows):
        notes.append(
            "*seeds to settle*: as many pairs of seeds as a two-sided t test at 5 % needs to find this difference with "
            f"a power of 80 %, if the spread between seeds stays what it is; *{NOT_ENOUGH}* with fewer than three "
            "pairs or without a difference."
        )
    if table.threshold is not None:
        whose = "" if table.threshold_given else f" (itself an estimate from the runs of `{table.baseline}`)"
        notes.append(
            f"*steps to threshold*: env steps until {100 * table.threshold:.1f} %{whose}, mean over seeds, and their "
            f"ratio to `{table.baseline}`, seed-paired bootstrap; a run that never got there counts with its whole "
            "budget. Where both sides have such runs the ratio may be wrong either way."
        )
    if min(row.seeds for row in table.rows) < 5:
        notes.append("A bootstrap over fewer than five seeds is too narrow: read such intervals as lower bounds.")
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
        if name in ("mean_interval", "iqm_interval", "difference_interval", "ratio_interval"):
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
