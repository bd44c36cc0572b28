"""The commands around recipes: what they print, where, and with which status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vlarl
from vlarl import cli, cli_command
from vlarl.console import Console, Display
from vlarl.errors import Exit, RunError
from vlarl.recipe.fields import documented
from vlarl.recipe.load import load_recipe
from vlarl.recipe.shipped import shipped_recipes

SOURCE = str(Path(vlarl.__file__).parents[1])


class Done:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def document(self) -> dict[str, Any]:
        data = json.loads(self.out)
        assert isinstance(data, dict)
        return data


@pytest.fixture
def vlarl_command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs one command in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Done:
        with pytest.raises(SystemExit) as caught:
            cli.main(list(words))
        out, err = capsys.readouterr()
        return Done(int(caught.value.code or 0), out, err)

    return run


def in_fresh_process(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
    environment["PYTHONPATH"] = SOURCE
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


HEAVY = ("torch", "numpy", "transformers", "mujoco", "h5py", "gymnasium", "scipy", "libero")
REPORT = """
import sys
try:
    main()
finally:
    sys.stderr.write("LOADED " + " ".join(m for m in HEAVY if m in sys.modules))
"""


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("validate", "quickstart"),
        ("list",),
        ("show", "smoke", "--resolved"),
        ("explain", "ppo.lr"),
        ("schema",),
        ("plan", "libero_goal", "--gpu", "80GB"),
    ],
)
def test_no_heavy_library_is_loaded(words: tuple[str, ...]) -> None:
    done = in_fresh_process(f"from vlarl.cli import main\nHEAVY = {HEAVY}\n{REPORT}", *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("LOADED ")


def test_help_loads_next_to_nothing() -> None:
    heavy = (*HEAVY, "pydantic", "ruamel.yaml", "rich")
    done = in_fresh_process(f"from vlarl.cli import main\nHEAVY = {heavy}\n{REPORT}", "--help")
    assert done.stderr.endswith("LOADED ")


def test_help_states_every_exit_status(vlarl_command: Any) -> None:
    text = " ".join(vlarl_command("--help").out.split())
    for status in Exit:
        assert f" {int(status)} " in text
    for word in ("init", "validate", "show", "plan", "list", "explain", "schema"):
        assert word in text
        assert "Exit status: 0 ok" in vlarl_command(word, "--help").out
        assert "--json" in vlarl_command(word, "--help").out


@pytest.mark.parametrize(
    "words", [(), ("bogus",), ("validate",), ("validate", "--bogus"), ("show", "smoke", "--display", "loud")]
)
def test_wrong_usage_exits_with_2(vlarl_command: Any, words: tuple[str, ...]) -> None:
    assert vlarl_command(*words).status == Exit.USAGE


def test_wrong_usage_is_json_too(vlarl_command: Any) -> None:
    done = vlarl_command("validate", "--json", "--bogus")
    assert done.status == Exit.USAGE
    assert done.document["ok"] is False
    assert "--bogus" in done.document["error"]["message"]


def test_version(vlarl_command: Any) -> None:
    assert vlarl_command("--version").out.strip() == vlarl.__version__


def test_validate_prints_the_hash_on_stdout_and_nothing_else(vlarl_command: Any) -> None:
    done = vlarl_command("validate", "quickstart", "smoke")
    assert (done.status, done.err) == (Exit.OK, "")
    digest = load_recipe(shipped_recipes()["quickstart"]).digest
    assert done.out.splitlines()[0].split()[:2] == ["ok", digest[:12]]


def test_validate_reports_all_recipes(vlarl_command: Any) -> None:
    Path("good.yaml").write_text("seed: 1\n", encoding="utf-8")
    Path("bad1.yaml").write_text("sede: 1\n", encoding="utf-8")
    Path("bad2.yaml").write_text("ppo: {minibatch_size: 600}\n", encoding="utf-8")
    done = vlarl_command("validate", "*.yaml")
    assert done.status == Exit.RECIPE
    assert done.out.split()[2] == "good.yaml"
    assert "bad1.yaml:1:1" in done.err
    assert "bad2.yaml:1:7" in done.err
    assert "1 error in bad1.yaml; `vlarl explain R102` says more" in done.err


def test_validate_json_is_one_document(vlarl_command: Any) -> None:
    Path("bad.yaml").write_text("sede: 1\n", encoding="utf-8")
    done = vlarl_command("validate", "--json", "bad.yaml", "smoke", "--set", "seed=3")
    assert (done.status, done.err) == (Exit.RECIPE, "")
    document = done.document
    assert (document["schema"], document["ok"]) == ("vlarl.validate/1", False)
    assert [entry["ok"] for entry in document["recipes"]] == [False, True]
    (found,) = document["diagnostics"]
    assert (found["code"], found["file"], found["line"], found["column"], found["severity"]) == (
        "R102",
        "bad.yaml",
        1,
        1,
        "error",
    )


def test_warnings_leave_the_status_alone(vlarl_command: Any) -> None:
    Path("a.yaml").write_text("imitation: null\n", encoding="utf-8")
    done = vlarl_command("validate", "a.yaml")
    assert done.status == Exit.OK
    assert "warning[R211]" in done.err
    assert "1 warning in a.yaml" in done.err
    quiet = vlarl_command("validate", "a.yaml", "--display", "none")
    assert (quiet.err, quiet.out) == ("", done.out)


def test_errors_are_shown_even_when_nothing_else_is(vlarl_command: Any) -> None:
    Path("a.yaml").write_text("sede: 1\n", encoding="utf-8")
    assert "error[R102]" in vlarl_command("validate", "a.yaml", "--display", "none").err
    assert "error[U202]" in vlarl_command("show", "nope", "--display", "none").err


@pytest.mark.parametrize("words", [("validate", "none.yaml"), ("show", "none.yaml"), ("init", "--from", "none.yaml")])
def test_a_missing_file_is_a_recipe_error(vlarl_command: Any, words: tuple[str, ...]) -> None:
    done = vlarl_command(*words)
    assert done.status == Exit.RECIPE
    assert "R110" in done.err


def test_an_unknown_recipe_name_has_a_suggestion(vlarl_command: Any) -> None:
    done = vlarl_command("show", "quikstart")
    assert done.status == Exit.USAGE
    assert "did you mean `quickstart`?" in done.err


def test_show_resolved_is_the_same_recipe(vlarl_command: Any) -> None:
    done = vlarl_command("show", "quickstart", "--resolved", "--set", "seed=99")
    Path("again.yaml").write_text(done.out, encoding="utf-8")
    recipe = load_recipe(Path("again.yaml")).recipe
    assert recipe == load_recipe(shipped_recipes()["quickstart"], ["seed=99"]).recipe


def test_show_origin_names_file_command_line_and_default(vlarl_command: Any) -> None:
    Path("a.yaml").write_text("ppo:\n  lr: 1e-4\n", encoding="utf-8")
    lines = vlarl_command("show", "a.yaml", "--resolved", "--origin", "--set", "seed=3").out.splitlines()
    assert "  lr: 0.0001  # a.yaml:2:7" in lines
    assert "seed: 3  # --set seed=3" in lines
    assert f"  clip: 0.2  # default of ppo.clip (vlarl {vlarl.__version__})" in lines
    document = vlarl_command("show", "a.yaml", "--origin", "--json").document
    assert document["origins"]["ppo.lr"] == "a.yaml:2:7"
    assert document["recipe"]["ppo"] == {"lr": 1e-4}


def test_show_diff_lists_what_differs(vlarl_command: Any) -> None:
    Path("a.yaml").write_text("name: x\nppo: {lr: 1e-4}\n", encoding="utf-8")
    Path("b.yaml").write_text("name: x\nppo: {lr: 2e-4}\n", encoding="utf-8")
    done = vlarl_command("show", "a.yaml", "--diff", "b.yaml")
    assert done.out == "value   here    b.yaml\nppo.lr  0.0001  0.0002\n"
    (row,) = vlarl_command("show", "a.yaml", "--diff", "b.yaml", "--json").document["differences"]
    assert (row["path"], row["here_from"], row["there_from"]) == ("ppo.lr", "a.yaml:2:11", "b.yaml:2:11")
    assert "no differences" in vlarl_command("show", "a.yaml", "--diff", "a.yaml").err


def test_show_reads_a_run_folder(vlarl_command: Any) -> None:
    Path("run").mkdir()
    Path("run/recipe.resolved.yaml").write_text("seed: 12\n", encoding="utf-8")
    assert "seed: 12" in vlarl_command("show", "run").out


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", shipped_recipes())
def test_init_writes_the_same_recipe_with_comments(vlarl_command: Any, name: str, full: bool) -> None:
    done = vlarl_command("init", "mine.yaml", "--from", name, *(["--full"] if full else []))
    assert (done.status, done.out) == (Exit.OK, "mine.yaml\n")
    shipped = load_recipe(shipped_recipes()[name]).recipe
    assert load_recipe(Path("mine.yaml")).recipe == shipped.model_copy(update={"name": "mine"})
    text = Path("mine.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=")
    assert "# Root of all randomness" in text
    assert ("tensorboard:" in text) == full
    assert "vlarl validate mine.yaml" in done.err


@pytest.mark.parametrize("full", [False, True])
def test_init_comments_say_what_the_kinds_in_the_file_are(vlarl_command: Any, full: bool) -> None:
    vlarl_command("init", "mine.yaml", "--from", "quickstart", *(["--full"] if full else []))
    lines = Path("mine.yaml").read_text(encoding="utf-8").splitlines()
    text = " ".join(line.strip().removeprefix("# ") for line in lines)
    described = {field.path: field.description for field in documented()}
    for line, path in {
        "kind: tabletop": "suite[tabletop].kind",
        "kind: tiny": "policy[tiny].kind",
        "kind: shared": "critic[shared].kind",
        "- kind: success": "rewards[success].kind",
        "kind: uniform": "curriculum[uniform].kind",
    }.items():
        assert f"{described[path]} {line}" in text
    assert "OpenVLA-OFT" not in text


@pytest.mark.parametrize(
    ("path", "takes"),
    [
        ("labels.smoothing", "takes: 1, 3, 5, 7 or 9"),
        ("ppo.group_lr", "takes: mapping of text to number >= 0"),
    ],
)
def test_explain_says_what_a_field_takes(vlarl_command: Any, path: str, takes: str) -> None:
    assert takes in vlarl_command("explain", path).out


def test_init_never_writes_over_a_file(vlarl_command: Any) -> None:
    assert vlarl_command("init").out == "quickstart.yaml\n"
    Path("quickstart.yaml").write_text("seed: 5\n", encoding="utf-8")
    done = vlarl_command("init")
    assert (done.status, Path("quickstart.yaml").read_text(encoding="utf-8")) == (Exit.USAGE, "seed: 5\n")
    assert vlarl_command("init", "--force").status == Exit.OK
    assert Path("quickstart.yaml").read_text(encoding="utf-8") != "seed: 5\n"


@pytest.mark.parametrize("what", ["recipes", "suites", "policies", "critics", "rewards", "curricula"])
def test_list(vlarl_command: Any, what: str) -> None:
    done = vlarl_command("list", what)
    assert done.status == Exit.OK
    assert len(done.out.splitlines()) >= 2
    assert vlarl_command("list", what, "--json").document["tables"][what]
    assert done.out.splitlines()[1] in vlarl_command("list").out


def test_explain(vlarl_command: Any) -> None:
    assert "Clip range of the ratio." in vlarl_command("explain", "ppo.clip").out
    assert "imitation.lr" in vlarl_command("explain", "lr").out
    assert "rewards[success].weight" in vlarl_command("explain", "rewards.weight").out
    assert vlarl_command("explain", "r201", "--json").document["topic"]["code"] == "R201"
    done = vlarl_command("explain", "ppo.clpi")
    assert (done.status, "did you mean `ppo.clip`?" in done.err) == (Exit.USAGE, True)


def test_schema_check(vlarl_command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from vlarl.recipe import generated

    assert json.loads(vlarl_command("schema").out)["title"] == "vlarl recipe"
    assert vlarl_command("schema", "--check").status == Exit.OK
    monkeypatch.setattr(generated, "shipped_folder", lambda: tmp_path)
    monkeypatch.setattr(generated, "docs_text", lambda: None)
    (tmp_path / "recipe.schema.json").write_text("{}", encoding="utf-8")
    stale = vlarl_command("schema", "--check")
    assert (stale.status, "`vlarl schema --write`" in stale.err) == (Exit.DRIFT, True)
    assert vlarl_command("schema", "--write").status == Exit.OK
    assert vlarl_command("schema", "--check").status == Exit.OK


def test_an_unexpected_error_is_one_line_and_a_file(
    vlarl_command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from vlarl.recipe import listing

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail(what: str) -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr(listing, "listing", fail)
    done = vlarl_command("list")
    assert done.status == Exit.RUN_FAILED
    assert "unexpected ZeroDivisionError: by accident" in done.err
    assert "Traceback" not in done.err
    (log,) = tmp_path.glob("vlarl-error-*.log")
    assert str(log) in done.err
    assert "Traceback" in log.read_text(encoding="utf-8")
    assert "Traceback" in vlarl_command("list", "-v").err
    assert vlarl_command("list", "--json").document["error"]["code"] == "X500"


@pytest.mark.parametrize(
    ("error", "status"),
    [(RunError("x", kept="checkpoint 40", hint="try"), Exit.RUN_FAILED), (KeyboardInterrupt(), Exit.INTERRUPTED)],
)
def test_errors_become_statuses(error: BaseException, status: Exit, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    assert cli_command.guarded(Console("x"), fail) == status
    assert ("kept: checkpoint 40" in capsys.readouterr().err) == isinstance(error, RunError)


def test_colour_follows_the_terminal_and_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def chosen(display: Display | None) -> Display:
        return Console.for_command("x", as_json=False, verbose=False, display=display).display

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert (chosen(None), chosen(Display.plain), chosen(Display.none)) == (Display.rich, Display.plain, Display.none)
    monkeypatch.setenv("NO_COLOR", "1")
    assert (chosen(None), chosen(Display.rich)) == (Display.plain, Display.plain)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert (chosen(None), chosen(Display.rich)) == (Display.plain, Display.rich)


def test_output_into_a_closed_pipe_is_no_error() -> None:
    words = [sys.executable, "-c", "from vlarl.cli import main; main()", "schema"]
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == Exit.OK


def test_progress_is_one_line_a_round_away_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Console("train").progress("iteration", 3, done=1) as step:
        step(2, {"success": "41/100", "kl": 0.01})
        step(3, {"success": "50/100"})
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["iteration 2/3  success 41/100  kl 0.01", "iteration 3/3  success 50/100  eta 0s"]
    with Console("train", display=Display.none).progress("iteration", 3) as step:
        step(1, {})
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_shows_the_same_facts(capsys: pytest.CaptureFixture[str]) -> None:
    with Console("train", display=Display.rich).progress("iteration", 3) as step:
        step(3, {"success": "[41/100]"})
    err = capsys.readouterr().err
    assert "3/3" in err
    assert "success [41/100]" in err
