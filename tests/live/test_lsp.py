"""The language server, driven as editors drive it: a process of its own, and in this one for other settings."""

import json
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from editor import ABLE, Editor, Failed, span

import mezzotint.live.lsp as lsp
from mezzotint.edit.presets import presets
from mezzotint.live.lsp import Live

HORSES = "The blue horses wait in seven garden."


@pytest.fixture(scope="module")
def editor():
    editor = Editor()
    editor.wait("window/logMessage", lambda told: "tiny is loaded" in told["message"])
    yield editor
    code, errors = editor.close()
    assert code == 0 and errors == ""


def test_what_it_can_do(editor):
    able = editor.server["capabilities"]
    assert able["inlineCompletionProvider"] == {} and able["positionEncoding"] == "utf-16"
    assert "mezzotint.edit" in able["executeCommandProvider"]["commands"] and able["textDocumentSync"]["change"] == 2


def test_completion_is_inserted_between_prefix_and_suffix(editor):
    left, right = "\U0001f600 The blue horses run in the garden. They jump because they ", " happy.\r\nMore.\r\n"
    editor.open("file:///between", left + right)
    units = len(left.encode("utf-16-le")) // 2
    (item,) = editor.ask("textDocument/inlineCompletion", editor.complete("file:///between", 0, units))["items"]
    at = item["range"]["start"]
    assert at == item["range"]["end"] == {"line": 0, "character": units}
    editor.change("file:///between", (0, units), (0, units), item["insertText"])
    assert editor.texts["file:///between"] == left + item["insertText"] + right
    assert item["insertText"].split()[0] == "are"
    # one unit further is behind the first letter typed: the rest of the suggestion is what is expected
    editor.open("file:///typed", left + "a" + right)
    (item,) = editor.ask("textDocument/inlineCompletion", editor.complete("file:///typed", 0, units + 1))["items"]
    assert item["insertText"]


def test_a_cancelled_request_ends_and_the_next_is_answered(editor):
    editor.open("file:///cancel", "The blue horses \n" + "They run in the garden.\n" * 20)
    numbers = [
        editor.begin("textDocument/inlineCompletion", editor.complete("file:///cancel", 0, 16)) for _ in range(3)
    ]
    assert editor.end(numbers[0]) == editor.end(numbers[1]) == {"items": []}  # a newer one took their place
    editor.tell("$/cancelRequest", {"id": numbers[2]})
    with pytest.raises(Failed) as failed:
        editor.end(numbers[2])
    assert failed.value.code == -32800
    began = time.monotonic()
    assert editor.ask("textDocument/inlineCompletion", editor.complete("file:///cancel", 3, 8))["items"]
    assert time.monotonic() - began < 30


def test_a_changed_document_is_not_answered_for_its_old_version(editor):
    editor.open("file:///stale", "The blue horses \nThey run.\n")
    number = editor.begin("textDocument/inlineCompletion", editor.complete("file:///stale", 0, 16))
    editor.change("file:///stale", (0, 0), (0, 0), "x")
    with pytest.raises(Failed) as failed:
        editor.end(number)
    assert failed.value.code == -32801
    for name in ("edit", "nextEdit", "doubt"):
        with pytest.raises(Failed) as failed:
            editor.run(name, uri="file:///stale", version=1, range=span(0, 0, 1, 0), preset="grammar")
        assert failed.value.code == -32801, name


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_preset_applies_to_a_selection_and_reverts(editor, ending):
    uri, before = f"file:///preset{len(ending)}", f"\U0001f600 head{ending}\U0001f600 {HORSES}{ending}{HORSES}{ending}"
    editor.open(uri, before)
    chosen = span(1, 3, 1, 3 + len(HORSES))
    told = {"textDocument": {"uri": uri}, "range": chosen, "context": {"diagnostics": []}}
    found = editor.ask("textDocument/codeAction", told)
    kinds = {action["kind"].rpartition(".")[2] for action in found}
    assert kinds >= set(presets()) and all(action.get("command") or action["disabled"]["reason"] for action in found)
    (action,) = [action for action in found if action["kind"].endswith(".grammar")]
    seen = len(editor.notes)
    done = editor.ask("workspace/executeCommand", {k: action["command"][k] for k in ("command", "arguments")})
    assert done == {"applied": True, "changes": 1, "calls": done["calls"], "way": "diffusion"} and done["calls"] > 0
    after = before.replace("seven garden", "the garden", 1)
    assert editor.texts[uri] == after and editor.versions[uri] == 2
    bars = [told["value"]["kind"] for told in editor.told("$/progress", seen)]
    assert bars[0] == "begin" and bars[-1] == "end"
    undo = [ask for ask in editor.asked if ask["method"] == "workspace/applyEdit"][-1]["params"]["edit"]
    (edit,) = undo["documentChanges"][0]["edits"]
    assert edit["newText"] == "the" and edit["range"] == span(1, 27, 1, 32)
    editor.change(uri, (1, 27), (1, 30), "seven")
    assert editor.texts[uri] == before
    only = {**told, "context": {"diagnostics": [], "only": ["refactor.rewrite.mezzotint.grammar"]}}
    assert [a["kind"] for a in editor.ask("textDocument/codeAction", only)] == ["refactor.rewrite.mezzotint.grammar"]
    assert editor.ask("textDocument/codeAction", {**only, "context": {"diagnostics": [], "only": ["quickfix"]}}) == []


def test_an_instruction_and_what_the_editor_refuses(editor):
    uri = "file:///told"
    editor.open(uri, f"{HORSES}\n")
    seen = len(editor.notes)
    editor.answers["workspace/applyEdit"] = lambda params: {"applied": False, "failureReason": "read only"}
    try:
        done = editor.run("instruct", uri=uri, range=span(0, 0, 0, 3), instruction="mend it")
        assert done["applied"] is False
        if done["changes"]:
            editor.wait("window/showMessage", lambda told: "read only" in told["message"], seen)
    finally:
        editor.answers["workspace/applyEdit"] = editor.apply
    assert editor.texts[uri] == f"{HORSES}\n"
    with pytest.raises(Failed, match="preset 'free' needs instruction"):
        editor.run("instruct", uri=uri, range=span(0, 0, 0, 3))


def test_what_was_changed_is_offered_for_a_similar_place(editor):
    uri = "file:///next"
    editor.open(uri, f"{HORSES}\nno\nlines\nlike it\n{HORSES}\nend\n")
    told = {"textDocument": {"uri": uri}, "range": span(0, 0, 0, 0), "context": {"diagnostics": []}}
    assert not any(a["kind"].endswith(".next") for a in editor.ask("textDocument/codeAction", told))
    editor.change(uri, (0, 24), (0, 29), "the")
    assert any(a["kind"].endswith(".next") for a in editor.ask("textDocument/codeAction", told))
    done = editor.run("nextEdit", uri=uri, version=2, range=span(0, 0, 0, 0))
    assert done["line"] == 4 and done["applied"] and done["way"] == "diffusion"
    lines = editor.texts[uri].splitlines()
    assert lines[:4] == [HORSES.replace("seven", "the"), "no", "lines", "like it"] and lines[5] == "end"
    assert lines[4] != HORSES
    editor.open("file:///still", "nothing was changed here\n")
    assert editor.run("nextEdit", uri="file:///still") == {"applied": False, "changes": 0}


def test_doubt_is_shown_until_the_text_changes(editor):
    uri = "file:///doubt"
    editor.open(uri, f"\U0001f600\n{HORSES} They jump because they are zzz.\n")
    seen = len(editor.notes)
    done = editor.run("doubt", uri=uri)
    found = editor.wait("textDocument/publishDiagnostics", lambda told: told["uri"] == uri, seen)
    assert len(found["diagnostics"]) == done["words"] > 0
    lines = [line.encode("utf-16-le") for line in editor.texts[uri].split("\n")]
    words = []
    for one in found["diagnostics"]:
        a, b = one["range"]["start"], one["range"]["end"]
        assert a["line"] == b["line"]
        words.append(lines[a["line"]][2 * a["character"] : 2 * b["character"]].decode("utf-16-le").strip())
        assert words[-1] in ("\U0001f600", *re.findall(r"\w+", editor.texts[uri]))
        assert re.fullmatch(r"in doubt: p = \S+", one["message"]) and one["severity"] == 3
    editor.change(uri, (0, 0), (0, 0), "x")
    editor.wait("textDocument/publishDiagnostics", lambda told: told["uri"] == uri and not told["diagnostics"], seen)


def test_bad_requests_are_answered_in_a_sentence(editor):
    editor.open("file:///bad", f"{HORSES}\n\n")
    seen = len(editor.notes)
    at = {"uri": "file:///bad", "range": span(0, 0, 0, 5)}
    for name, told, words in (
        ("edit", at, "preset is None; it must be text"), ("edit", {**at, "preset": "magic"}, "unknown preset 'magic'"),
        ("edit", {**at, "preset": "grammar", "range": 3}, "range is 3; expected start and end"),
        ("edit", {**at, "preset": "grammar", "range": span(0, -1, 0, 0)}, "below 0"),
        ("edit", {**at, "preset": "grammar", "range": span(1, 0, 1, 0)}, "no text in the selection"),
        ("edit", {**at, "preset": "convert", "values": 3}, "values are 3"),
        ("edit", {"uri": "file:///nowhere", "preset": "grammar"}, "is not open"), ("doubt", {}, "uri is None"),
        ("fly", at, "there is no command 'mezzotint.fly'; known: mezzotint.clearDoubt"),
    ):  # fmt: skip
        with pytest.raises(Failed) as failed:
            editor.run(name, **told)
        assert words in str(failed.value), (name, told)
        assert "data" not in failed.value.error or not failed.value.error["data"]
    with pytest.raises(Failed, match="is not open"):
        editor.ask("textDocument/inlineCompletion", editor.complete("file:///nowhere", 0, 0))
    editor.tell(
        "textDocument/didChange", {"textDocument": {"uri": "file:///nowhere", "version": 2}, "contentChanges": []}
    )
    editor.raw(b"Content-Length: 9\r\n\r\n{not json")
    editor.ask(
        "textDocument/codeAction",
        {"textDocument": {"uri": "file:///bad"}, "range": span(0, 0, 0, 0), "context": {"diagnostics": []}},
    )
    with pytest.raises(Failed):
        editor.ask("textDocument/inlineCompletion", {"wrong": 1})
    messages = [told["message"] for told in editor.told("window/showMessage", seen)]
    assert messages and not any("Traceback" in message or "\n" in message for message in messages)
    assert editor.ask("textDocument/inlineCompletion", editor.complete("file:///bad", 99, 99)) is not None


# -- in this process ----------------------------------------------------------------------------------------------


def test_utf8_and_values_that_are_asked_for(tiny):
    able = {**ABLE, "workspace": {"applyEdit": True}}  # no versioned edits
    editor = Editor(load=lambda: tiny, encodings=["utf-8"], able=able, settings={"prompts": True})
    assert editor.server["capabilities"]["positionEncoding"] == "utf-8"
    changes = []
    editor.answers["workspace/applyEdit"] = lambda params: (
        changes.append(params["edit"]["changes"]) or {"applied": True}
    )
    editor.answers["mezzotint/input"] = lambda params: {"audience": "kids", "language": None}[params["name"]]
    editor.open("file:///a", f"\U0001f600 {HORSES}\n")
    told = {"uri": "file:///a", "range": span(0, 5, 0, 5 + len(HORSES))}
    done = editor.run("edit", preset="audience", **told)
    asked = [ask["params"] for ask in editor.asked if ask["method"] == "mezzotint/input"]
    assert asked == [{"name": "audience", "title": "Rewrite for an audience"}]
    assert editor.run("edit", preset="convert", **told) == {"applied": False, "changes": 0}
    if done["applied"]:
        (edits,) = changes
        for edit in edits["file:///a"]:
            assert 5 <= edit["range"]["start"]["character"] <= 5 + len(HORSES)
    editor.close()


def test_menus_bad_settings_and_a_model_that_is_not_there():
    def load():
        raise ValueError("there is no such model")

    editor = Editor(load=load, settings={"colour": 1}, able={}, menu=True)
    editor.wait("window/showMessage", lambda told: "unknown setting 'colour'" in told["message"] and told["type"] == 2)
    editor.wait("window/showMessage", lambda told: "could not be loaded: there is no such model" in told["message"])
    assert "completionProvider" in editor.server["capabilities"]
    editor.open("file:///a", f"{HORSES}\n")
    told = {"textDocument": {"uri": "file:///a"}, "position": {"line": 0, "character": 3}}
    for _ in range(2):
        with pytest.raises(Failed, match="no such model"):
            editor.ask("textDocument/completion", told)
    shown = [one for one in editor.told("window/showMessage") if one["message"] == "mezzotint: there is no such model"]
    assert len(shown) == 1  # not at every key
    actions = editor.ask("textDocument/codeAction", {**told, "range": span(0, 0, 0, 0), "context": {"diagnostics": []}})
    assert not any("disabled" in action for action in actions)
    editor.close()


def test_addresses():
    assert lsp.address("2087") == ("127.0.0.1", 2087) and lsp.address("0.0.0.0:1") == ("0.0.0.0", 1)
    for told in ("", "x", "0", "70000", ":5", "a:b"):
        with pytest.raises(ValueError, match="expected PORT or HOST:PORT"):
            lsp.address(told)


def test_tcp(tiny):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    thread = threading.Thread(target=lsp.serve, args=(lambda: tiny, str(port)), daemon=True)
    thread.start()
    for _ in range(500):
        try:
            line = socket.create_connection(("127.0.0.1", port), 20)
            break
        except OSError:
            time.sleep(0.02)
    body = json.dumps(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {"capabilities": {}, "processId": None, "rootUri": None},
        }
    )
    line.sendall(f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
    assert b"inlineCompletionProvider" in line.recv(65536)
    line.close()
    thread.join(20)
    assert not thread.is_alive()


def test_the_extension_is_whole():
    folder = Path(__file__).parents[2] / "editors" / "vscode"
    package = json.loads((folder / "package.json").read_text())
    code = (folder / package["main"]).read_text()
    for command in package["contributes"]["commands"]:
        assert f'registerCommand("{command["command"]}"' in code
    for name in package["contributes"]["configuration"]["properties"]:
        assert f'get("{name.removeprefix("mezzotint.")}")' in code
    known = set(Live(lambda: None, {}).server.protocol.fm.commands)
    assert {f"mezzotint.{name}" for name in re.findall(r'run\("(\w+)"', code)} <= known and lsp.INPUT in code
    if node := shutil.which("node"):
        subprocess.run([node, "--check", folder / package["main"]], check=True)
