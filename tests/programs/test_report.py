"""The report: complete, self-contained, honest about what is not there, and safe with what it is given."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from html_reader import Page
from synthetic_run import STEPS_PER_ITERATION, make_document, make_record, make_run, make_trials

from vlarl import report_data
from vlarl.errors import AssetError
from vlarl.guard import finding
from vlarl.report import report, report_json, report_notes, report_text
from vlarl.report_charts import Frame, Series, line_chart, nice_ticks, percent, short_number, stacked_bar
from vlarl.report_data import comparable, gather, rollout_curve
from vlarl.report_page import page
from vlarl.results import read_document, write
from vlarl.results_training import ledger
from vlarl.run.events import EventLog
from vlarl.run.folder import RunFolder
from vlarl.videos import Video, write_index


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, iterations=12, episodes=16)


def add_video(run: RunFolder, name: str, content: bytes, iteration: int = 12) -> None:
    run.videos.mkdir(exist_ok=True)
    (run.videos / name).write_bytes(content)
    row = Video(
        file=name,
        task="lift_red",
        instruction="lift <red>",
        init=0,
        seed=0,
        roles=("first",),
        success=True,
        length=9,
        iteration=iteration,
        note=None,
    )
    write_index(run.videos, [row])


def test_it_says_what_the_run_did(run: RunFolder) -> None:
    written = report(run.path)
    assert written.path == run.report
    assert report_text(written) == str(run.report)
    assert written.size == run.report.stat().st_size
    shown = Page(run.report.read_text())
    first, last = (read_document(run.evaluations / f"tabletop_basic-{i:06d}.json") for i in (0, 12))
    for document in (first, last):
        overall = document["overall"]
        assert f"{overall['successes']}/{overall['episodes']}" in shown.text
    for words in (
        "quickstart",
        "3f9a1c000000",
        "after 12 iterations",
        "exact McNemar",
        "Success over env steps",
        "Explained variance",
        "env steps/s",
        "vlarl train recipes/quickstart.yaml",
        "llvmpipe",
        "the policy had no gradient",
        "(iteration 3, 4)",
    ):
        assert words in shown.text, words
    assert written.summary is not None
    assert written.summary in report_notes(written)
    json.dumps(report_json(written))


def test_it_needs_no_network_and_no_other_file(run: RunFolder) -> None:
    add_video(run, "a.mp4", b"frames")
    report(run.path)
    text = run.report.read_text()
    shown = Page(text)
    assert not re.search(r"https?://|@import|url\(", text)
    assert not list(shown.all("script")) + list(shown.all("link"))
    sources = [attributes["src"] for attributes in (*shown.all("video"), *shown.all("img"))]
    assert sources == ["data:video/mp4;base64,ZnJhbWVz"]
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_every_drawing_stays_inside_its_frame(run: RunFolder) -> None:
    text = page(gather(run))
    for svg in re.findall(r"<svg.*?</svg>", text):
        _, _, width, height = map(float, re.search(r'viewBox="([^"]+)"', svg)[1].split())  # type: ignore[index]
        points = [tuple(map(float, p.split(","))) for ps in re.findall(r'points="([^"]*)"', svg) for p in ps.split()]
        points += [(float(x), float(y)) for x, y in re.findall(r'cx="([^"]+)" cy="([^"]+)"', svg)]
        assert all(-1 <= x <= width + 1 and -1 <= y <= height + 1 for x, y in points), svg
    assert not re.search(r"\b(nan|inf|None)\b", Page(text).text)


def test_names_and_texts_are_escaped(run: RunFolder) -> None:
    add_video(run, "a.gif", b"gif")
    run.resolved_recipe.write_text("name: '<script>alert(1)</script>'\n")
    manifest = json.loads(run.manifest.read_text())
    run.manifest.write_text(json.dumps({**manifest, "command": ["vlarl", "<b>", '"&']}))
    for path in run.evaluations.glob("*.json"):
        path.write_text(path.read_text().replace("do reach red", "<img src=x onerror=alert(1)>"))
    text = page(gather(run))
    assert "<script>" not in text
    assert "<img src=x" not in text
    assert "<img src=x onerror=alert(1)>" in Page(text).text
    assert 'vlarl <b> "&' in Page(text).text
    assert "lift <red>" in Page(text).text
    assert "p <0.001" in Page(text).text
    assert "p &lt;0.001" in text
    assert "p <0.001" not in text


def test_a_run_that_has_only_begun_has_a_report(tmp_path: Path) -> None:
    run = make_run(tmp_path, iterations=12, episodes=4)
    for path in (*run.evaluations.iterdir(), run.events):
        path.unlink()
    text = Page(page(gather(run))).text
    assert "No evaluation has been made yet" in text
    assert "Learning" not in text
    assert "Success over" not in text


def test_after_step_0_there_is_no_comparison_yet(tmp_path: Path) -> None:
    run = make_run(tmp_path, iterations=12, episodes=4)
    for path in run.evaluations.iterdir():
        if "000000" not in path.name:
            path.unlink()
    text = Page(page(gather(run))).text
    assert "before reinforcement learning" in text
    assert "McNemar" not in text


def test_a_fall_below_the_baseline_raises_the_alarm(tmp_path: Path) -> None:
    run = make_run(tmp_path, iterations=12, episodes=16)
    assert 'class="alarm"' not in page(gather(run))
    trials = make_trials(lambda task, init: False, 16)
    write(make_document(trials, iteration=12), trials, run.evaluations)
    text = page(gather(run))
    assert 'class="alarm"' in text
    assert "The best evaluation came after 8 iterations" in Page(text).text


def test_only_comparable_evaluations_share_the_curve() -> None:
    trials = make_trials(lambda task, init: init % 2 == 0, 4)
    own = [make_document(trials, iteration=i) for i in (10, 0, 5)]
    others = [
        make_document(trials, iteration=10, decoding="sampled", temperature=1.0),
        make_document(make_trials(lambda task, init: True, 5), iteration=10),
        make_document(trials, policy="expert", decoding=None, iteration=None),
    ]
    curve, rest = comparable([*others[:1], *own, *others[1:]])
    assert [document["iteration"] for document in curve] == [0, 5, 10]
    assert list(rest) == others
    assert comparable(others[2:]) == ((), tuple(others[2:]))


def test_the_rollout_curve_pools_a_hundred_episodes() -> None:
    records = [
        {"iteration": i, "success_rate": {"k": k, "n": n}}
        for i, (k, n) in enumerate([(0, 0), (10, 40), (20, 40), (30, 40), (60, 120)])
    ]
    assert rollout_curve(records) == [(4, 60, 120), (5, 60, 120)]
    assert rollout_curve(records[:3]) == [(2, 10, 40), (3, 30, 80)], "a short run shows what it has"


def test_env_steps_place_an_evaluation_after_its_iterations(run: RunFolder) -> None:
    data = gather(run)
    assert [data.env_steps(i) for i in (0, 1, 12, 13)] == [0, STEPS_PER_ITERATION, 12 * STEPS_PER_ITERATION, None]


def test_the_ledger_adds_up() -> None:
    seconds = ledger([make_record(i, 10) for i in range(10)])
    assert seconds["total"] == pytest.approx(82.0)
    assert seconds["other"] == pytest.approx(82.0 - 22.0 - 45.0 - 2.0 - 11.0)
    assert ledger([])["other"] == 0.0


def test_videos_beyond_the_budget_are_counted_and_left_out(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_data, "VIDEO_BUDGET", 10)
    add_video(run, "old.mp4", b"x", iteration=4)
    for name, size in (("a.mp4", 6), ("b.mp4", 6), ("c.mp4", 4)):
        add_video(run, name, b"x" * size)
    (run.videos / "c.mp4").unlink()
    data = gather(run)
    assert (len(data.clips), data.clips_left_out) == (1, 2)
    assert "2 more did not fit" in Page(page(data)).text


def test_warnings_of_evaluations_are_shown_too(run: RunFolder) -> None:
    with EventLog(run.events) as log:
        log.append({"kind": "evaluation", "iteration": 12, "warnings": [finding(0)]})
    shown = Page(page(gather(run))).text
    assert (
        "evaluations since step 0 together show the policy below the step-0 baseline beyond noise (iteration 12)"
        in shown
    )


def test_policy_curves_leave_out_the_critic_warm_up(run: RunFolder) -> None:
    text = page(gather(run))
    kl = text[text.index("Approximate KL over env steps") :]
    points = re.search(r'<polyline[^>]*points="([^"]*)"', kl)
    assert points is not None
    assert len(points[1].split()) == 12 - 3


def test_damaged_files_are_named(run: RunFolder, tmp_path: Path) -> None:
    (run.evaluations / "tabletop_basic-000012.json").write_text("{")
    with pytest.raises(AssetError, match="tabletop_basic-000012"):
        report(run.path)
    assert not run.report.exists()
    with pytest.raises(AssetError):
        report("nothing", runs=tmp_path)


def test_it_can_be_written_elsewhere(run: RunFolder, tmp_path: Path) -> None:
    assert report(run.id, out=tmp_path / "deep" / "a.html", runs=tmp_path).path == tmp_path / "deep" / "a.html"
    assert not run.report.exists()


@pytest.mark.parametrize(
    ("low", "high", "count", "ticks"),
    [(0, 1, 4, [0, 0.25, 0.5, 0.75, 1]), (0, 245760, 5, [0, 50000, 100000, 150000, 200000]), (3, 3, 4, [3])],
)
def test_ticks_are_round(low: float, high: float, count: int, ticks: list[float]) -> None:
    assert nice_ticks(low, high, count) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05, "0.05"), (2e-5, "2e-5"), (5000, "5000"), (50_000, "50k"), (1.25e6, "1.25M"), (-0.5, "-0.5")],
)
def test_numbers_on_axes_are_short(value: float, text: str) -> None:
    assert short_number(value) == text


def chart(y: list[Any]) -> str:
    frame = Frame(width=200, height=100, x_format=short_number, y_format=percent)
    return line_chart([Series(name="a", css="after", x=list(range(len(y))), y=y)], frame, label="a & b")


def test_gaps_break_a_line_and_nothing_is_drawn_of_nothing() -> None:
    assert chart([1.0, 2.0, None, float("nan"), 3.0, 4.0]).count("<polyline") == 2
    assert chart([None, float("inf")]) == ""
    assert 'aria-label="a &amp; b"' in chart([1.0, 1.0])
    assert "<rect" not in stacked_bar([], label="empty")
