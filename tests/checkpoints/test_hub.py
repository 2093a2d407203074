"""The hub: huggingface-hub itself against a small server that answers as the hub does; pins, checksums, offline."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import toy_folder
from typer.testing import CliRunner, Result

from mezzotint.cli import app

pytest.importorskip("huggingface_hub", reason="the hub is asked with huggingface-hub (mezzotint[hub])")

FIRST, SECOND = "1" * 40, "2" * 40


class Hub:
    """commits: commit -> folder; main: what `main` is; asked: paths; spoilt: a file that is sent wrong."""

    def __init__(self, top: Path) -> None:
        self.commits: dict[str, Path] = {}
        self.main, self.asked, self.spoilt = FIRST, list[str](), ""
        self.home, self.url = top / "home", ""

    def run(self, *arguments: str, **environment: str) -> Result:
        surroundings = {"HF_ENDPOINT": self.url, "HF_HOME": str(self.home / "hf"), "MEZZOTINT_CACHE": str(self.home)}
        result = CliRunner().invoke(app, [*arguments], env=surroundings | environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path)
    for commit, name in ((FIRST, "qwen3"), (SECOND, "llama")):
        hub.commits[commit] = tmp_path / commit
        toy_folder.write(name, hub.commits[commit])
        (hub.commits[commit] / "modeling_evil.py").write_text("raise SystemExit('run')")
        (hub.commits[commit] / "pytorch_model.bin").write_bytes(b"pickled")

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(path)
            if path.startswith("/api/models/own/toy"):
                commit = path.rpartition("/revision/")[2] if "/revision/" in path else "main"
                commit = hub.main if commit == "main" else commit
                if commit not in hub.commits:
                    return self.say(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return self.say(200, json.dumps(told(commit)).encode(), {})
            if path.startswith("/own/toy/resolve/"):
                commit, name = path.removeprefix("/own/toy/resolve/").split("/", 1)
                data = (hub.commits[commit] / name).read_bytes()
                etag = hashlib.sha256(data).hexdigest() if name.endswith("safetensors") else git_sha1(data)
                sent = data[:-1] + bytes([data[-1] ^ 1]) if name == hub.spoilt else data
                return self.say(200, sent, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})
            return self.say(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET  # http.server's names

        def say(self, code: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(code)
            for key, value in {**headers, "Content-Length": str(len(data)), "Content-Type": "application/json"}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    def told(commit: str) -> dict[str, Any]:
        siblings = []
        for file in sorted(hub.commits[commit].iterdir()):
            data = file.read_bytes()
            entry: dict[str, Any] = {"rfilename": file.name, "size": len(data), "blobId": git_sha1(data)}
            if file.suffix == ".safetensors":
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        return {
            "id": "own/toy",
            "modelId": "own/toy",
            "sha": commit,
            "siblings": siblings,
            "tags": [],
            "private": False,
        }

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    yield hub
    server.shutdown()
    thread.join(10)
    server.server_close()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def test_pull_pin_load_and_stay(hub: Hub) -> None:
    early = hub.run("card", "hub:own/toy")
    assert early.exit_code == 2 and "`mezzotint pull hub:own/toy` fetches it" in early.stderr and not hub.asked
    done = hub.run("pull", "hub:own/toy")
    assert done.exit_code == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.name == FIRST and f"own/toy at {FIRST}" in done.stderr
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "pulled.json",
    }
    kept = json.loads((folder / "pulled.json").read_text())
    assert (
        kept["commit"] == FIRST
        and kept["files"]["model.safetensors"]["sha256"]
        == hashlib.sha256((hub.commits[FIRST] / "model.safetensors").read_bytes()).hexdigest()
    )
    hub.main, count = SECOND, len(hub.asked)  # main moves on; what is pinned here does not, and nobody is asked
    for verb in (("card", "hub:own/toy", "--json"), ("pull", "hub:own/toy"), ("models", "--json")):
        again = hub.run(*verb, HF_HUB_OFFLINE="1")
        assert again.exit_code == 0 and len(hub.asked) == count, again.stderr
        assert FIRST in again.stdout  # in the path of what was pulled


@pytest.mark.parametrize(
    ("name", "environment", "spoilt", "code", "said"),
    [
        ("hub:own/toy", {"HF_HUB_OFFLINE": "1"}, "", 1, "HF_HUB_OFFLINE forbids fetching it"),
        ("hub:own/toy@nowhere", {}, "", 1, "RevisionNotFoundError"),
        ("hub:own/other", {}, "", 1, "RepositoryNotFoundError"),
        ("hub:toy", {}, "", 2, "write hub:OWNER/NAME or hub:OWNER/NAME@REVISION"),
        ("hub:../x", {}, "", 2, "write hub:OWNER/NAME"),
        ("hub:own/toy", {}, "model.safetensors", 1, "wrong checksum: model.safetensors"),
        ("hub:own/toy", {}, "config.json", 1, "wrong checksum: config.json"),
        ("hub:own/toy", {"HF_ENDPOINT": "http://127.0.0.1:1"}, "", 1, "Check the name, the network"),
    ],
)
def test_what_cannot_be_had(
    hub: Hub, name: str, environment: dict[str, str], spoilt: str, code: int, said: str
) -> None:
    hub.spoilt = spoilt
    done = hub.run("pull", name, **environment)
    assert done.exit_code == code and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert hub.run("card", "hub:own/toy").exit_code == 2  # nothing that is not whole
    if spoilt:
        hub.spoilt = ""
        assert hub.run("pull", name).exit_code == 0


def test_weights_without_safetensors_are_refused_and_a_commit_can_be_named(hub: Hub) -> None:
    done = hub.run("pull", f"hub:own/toy@{SECOND}")
    assert done.exit_code == 0 and Path(done.stdout.strip()).name == SECOND, done.stderr
    assert hub.run("card", f"hub:own/toy@{SECOND}").exit_code == 0
    (hub.commits[FIRST] / "model.safetensors").unlink()
    done = hub.run("pull", f"hub:own/toy@{FIRST}")
    assert done.exit_code == 1 and "holds no safetensors. Pickled weights are not fetched" in done.stderr
