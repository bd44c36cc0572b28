"""References to checkpoints, against a hub on the loopback interface."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from layout import SMALL, write_checkpoint

from vlarl.errors import AssetError, RecipeError
from vlarl.policies.openvla.hub import resolve
from vlarl.policies.openvla.layout import read_layout
from vlarl.policies.openvla.sizes import tensor_shapes

COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
REFERENCE = f"hf://someone/tiny@{COMMIT}"
TOKEN = "hf_thisIsASecretOfTheUser"
NEVER = {"modeling_prismatic.py": "raise SystemExit", "pytorch_model.bin": "pickle", "README.md": "# card"}


class Hub:
    """What a hub answers about one repository, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.asked: list[str] = []
        self.authorizations: set[str | None] = set()
        self.failing = False  # answers with an error
        self.breaking = False  # breaks off in the middle of a file
        self.endpoint = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        tree = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in self.files.items()
        ]
        described = {"id": "someone/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
        if match := re.match(rf"/someone/tiny/resolve/{COMMIT}/(.+)", path):
            data = self.files[match[1]]
            headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            return (500, {}, b"") if self.failing else (200, headers, data)
        if path == f"/api/models/someone/tiny/tree/{COMMIT}":
            return 200, {}, json.dumps(tree).encode()
        if re.match(rf"/api/models/someone/tiny/revision/(main|{COMMIT})", path):
            return 200, {}, json.dumps(described).encode()
        if path.startswith("/api/models/someone/tiny"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if path.startswith("/api/models/someone/gated"):
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = write_checkpoint(tmp_path / "served", num_shards=2)
    for name, text in NEVER.items():
        (folder / name).write_text(text)
    hub = Hub(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            hub.asked.append(path)
            hub.authorizations.add(self.headers["Authorization"])
            status, headers, body = hub.answer(path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                cut = hub.breaking and "/resolve/" in path
                self.wfile.write(body[: len(body) // 2] if cut else body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between tries
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return cache


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("checkpoints/openvla") == Path("checkpoints/openvla")
    assert resolve("~/openvla") == tmp_path / "openvla"


def test_a_commit_is_downloaded_and_usable(hub: Hub, cache: Path) -> None:
    folder = resolve(REFERENCE, endpoint=hub.endpoint)
    assert folder.is_relative_to(cache)
    assert read_layout(folder).shapes == tensor_shapes(SMALL)
    for path in folder.iterdir():
        assert path.read_bytes() == hub.files[path.name]


def test_neither_code_nor_pickles_are_fetched(hub: Hub) -> None:
    folder = resolve(REFERENCE, endpoint=hub.endpoint)
    assert {path.name for path in folder.iterdir()} == hub.files.keys() - NEVER.keys()
    assert not [path for path in hub.asked if path.endswith(tuple(NEVER))]


def test_a_second_time_nothing_is_downloaded(hub: Hub) -> None:
    first = resolve(REFERENCE, endpoint=hub.endpoint)
    hub.asked.clear()
    assert resolve(REFERENCE, endpoint=hub.endpoint) == first
    assert not [path for path in hub.asked if "/resolve/" in path]


@pytest.mark.parametrize("reference", ["hf://someone/tiny", "hf://someone/tiny@main"])
def test_a_branch_serves(hub: Hub, reference: str) -> None:
    assert resolve(reference, endpoint=hub.endpoint).name == COMMIT


@pytest.mark.parametrize("reference", ["hf://", "hf://tiny", "hf://a/b/c", "hf://a/b@", "hf://a/b?x=1", "hf:// a/b"])
def test_malformed_references(reference: str) -> None:
    with pytest.raises(RecipeError, match="is not of the form") as caught:
        resolve(reference)
    assert caught.value.code == "R222"


@pytest.mark.parametrize(
    ("reference", "said", "hint"),
    [
        (f"hf://someone/absent@{COMMIT}", "no such repository", "hf auth login"),
        (f"hf://someone/tiny@{OTHER}", f"no revision {OTHER}", "history"),
        (f"hf://someone/gated@{COMMIT}", "consent", "accept the terms"),
        (f"hf://some--one/..@{COMMIT}", "allows no such name", "check the name"),
    ],
)
def test_what_the_hub_refuses(hub: Hub, reference: str, said: str, hint: str) -> None:
    error = unreachable(reference, hub.endpoint, said)
    assert hint in str(error.hint)


def test_no_network(hub: Hub) -> None:
    assert "HF_HUB_OFFLINE" in str(unreachable(REFERENCE, "http://127.0.0.1:9", "does not answer").hint)


def test_a_hub_that_fails(hub: Hub) -> None:
    hub.failing = True
    unreachable(REFERENCE, hub.endpoint, "does not answer")


def test_a_download_that_breaks_off_can_be_repeated(hub: Hub) -> None:
    hub.breaking = True
    unreachable(REFERENCE, hub.endpoint, "the download failed")
    hub.breaking = False
    folder = resolve(REFERENCE, endpoint=hub.endpoint)
    assert read_layout(folder).shapes == tensor_shapes(SMALL)


def unreachable(reference: str, endpoint: str, said: str) -> AssetError:
    with pytest.raises(AssetError, match=said) as caught:
        resolve(reference, endpoint=endpoint)
    assert caught.value.code == "R376"
    assert caught.value.place == reference.partition("@")[0]
    return caught.value


def test_a_token_is_used_and_never_shown(
    hub: Hub, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    resolve(REFERENCE, endpoint=hub.endpoint)
    error = unreachable(f"hf://someone/gated@{COMMIT}", hub.endpoint, "consent")
    assert hub.authorizations == {f"Bearer {TOKEN}"}
    shown = "".join([caplog.text, *capfd.readouterr(), error.message, str(error.hint), str(error.__cause__)])
    assert TOKEN not in shown


SCRIPT = "import sys; from vlarl.policies.openvla.hub import resolve; print(resolve(sys.argv[1]))"


def test_the_environment_names_the_hub_and_the_cache(hub: Hub, tmp_path: Path) -> None:
    variables = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint, "PYTHONPATH": "src"}
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HUGGINGFACE_HUB_CACHE"):
        variables.pop(name, None)
    folders = []
    for offline in ("0", "1"):
        hub.asked.clear()
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT, REFERENCE],
            env={**variables, "HF_HUB_OFFLINE": offline},
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[3],
        )
        folders.append(Path(result.stdout.strip()))
        assert bool(hub.asked) == (offline == "0")
    assert folders[0] == folders[1]
    assert folders[0].is_relative_to(tmp_path / "home")
    assert read_layout(folders[0]).shapes == tensor_shapes(SMALL)
