"""An editor as a server sees it: JSON-RPC over the pipes of a process, answers and notifications kept."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading

WAIT = 60
ABLE = {
    "workspace": {"applyEdit": True, "workspaceEdit": {"documentChanges": True}},
    "window": {"workDoneProgress": True},
    "textDocument": {"codeAction": {"disabledSupport": True, "codeActionLiteralSupport": {"codeActionKind": {"valueSet": []}}}},
}  # fmt: skip


class Failed(Exception):
    def __init__(self, error):
        super().__init__(error["message"])
        self.code, self.error = error["code"], error


class Editor:
    """answers: {method: params -> result} for what the server asks; each document's text is kept and edited.

    load: the server runs in this process, on this engine; else it is a process of its own.
    """

    def __init__(self, *options, able=ABLE, settings=None, encodings=None, load=None, menu=False):
        self.errors, self.process = queue.Queue(), None
        if load is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mezzotint", "lsp", "-m", "tiny", "--compute", "float32", *options],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            self.out, self.into = self.process.stdout, self.process.stdin
            threading.Thread(target=self.hear, daemon=True).start()
        else:
            from mezzotint.edit.presets import presets
            from mezzotint.live.lsp import Live

            (theirs, ours), (mine, yours) = os.pipe(), os.pipe()
            self.into, self.out = os.fdopen(ours, "wb"), os.fdopen(mine, "rb")
            self.live = Live(load, presets(), menu)
            self.streams = os.fdopen(theirs, "rb"), os.fdopen(yours, "wb")
            self.thread = threading.Thread(target=self.live.server.start_io, args=self.streams, daemon=True)
            self.thread.start()
        self.results, self.notes, self.asked = {}, [], []
        self.number, self.texts, self.versions = 0, {}, {}
        self.answers = {"workspace/applyEdit": self.apply, "window/workDoneProgress/create": lambda params: None}
        self.changed, self.gone = threading.Condition(), False
        self.listener = threading.Thread(target=self.listen, daemon=True)
        self.listener.start()
        general = {"general": {"positionEncodings": encodings}} if encodings else {}
        told = {"processId": None, "rootUri": None, "capabilities": able | general, "initializationOptions": settings}
        self.server = self.ask("initialize", told)
        self.tell("initialized", {})

    def hear(self):
        with self.process.stderr as pipe:
            self.errors.put(pipe.read())

    def send(self, message):
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.raw(b"Content-Length: %d\r\n\r\n" % len(data) + data)

    def raw(self, data):
        self.into.write(data)
        self.into.flush()

    def listen(self):
        pipe = self.out
        while header := pipe.readline():
            length = int(header.split(b":")[1])
            while pipe.readline().strip():
                pass
            message = json.loads(pipe.read(length))
            if "method" in message and "id" in message:
                self.asked.append(message)
                result = self.answers[message["method"]](message["params"])
                with contextlib.suppress(OSError):
                    self.send({"id": message["id"], "result": result})
                continue
            with self.changed:
                if "method" in message:
                    self.notes.append(message)
                else:
                    self.results[message["id"]] = message
                self.changed.notify_all()

        with self.changed:
            self.gone = True
            self.changed.notify_all()

    def begin(self, method, params):
        self.number += 1
        self.send({"id": self.number, "method": method, "params": params})
        return self.number

    def end(self, number):
        with self.changed:
            self.changed.wait_for(lambda: number in self.results or self.gone, WAIT)
            assert number in self.results, f"no answer to {number}: {self.gone and self.errors.get(timeout=9).decode()}"
            message = self.results.pop(number)
        if "error" in message:
            raise Failed(message["error"])
        return message["result"]

    def ask(self, method, params):
        return self.end(self.begin(method, params))

    def tell(self, method, params):
        self.send({"method": method, "params": params})

    def told(self, method, since=0):
        return [note["params"] for note in self.notes[since:] if note["method"] == method]

    def wait(self, method, fits=lambda params: True, since=0):
        with self.changed:
            assert self.changed.wait_for(lambda: any(map(fits, self.told(method, since))), WAIT), f"no {method}"
            return [params for params in self.told(method, since) if fits(params)][-1]

    # -- documents

    def open(self, uri, text):
        self.texts[uri], self.versions[uri] = text, 1
        item = {"uri": uri, "languageId": "plaintext", "version": 1, "text": text}
        self.tell("textDocument/didOpen", {"textDocument": item})

    def change(self, uri, start, end, text):
        """Positions are UTF-16."""
        self.versions[uri] += 1
        place = {"start": {"line": start[0], "character": start[1]}, "end": {"line": end[0], "character": end[1]}}
        self.edit(uri, [{"range": place, "newText": text}])
        told = {
            "textDocument": {"uri": uri, "version": self.versions[uri]},
            "contentChanges": [{"range": place, "text": text}],
        }
        self.tell("textDocument/didChange", told)

    def edit(self, uri, edits):
        """By another road than the server's: UTF-16 code units throughout."""
        data = self.texts[uri].encode("utf-16-le")
        lines, at = [0], 0
        while (at := data.find("\n".encode("utf-16-le"), at)) >= 0:
            at += 2
            if at % 2 == 0:
                lines.append(at)

        def spots(place):
            return lines[place["line"]] + 2 * place["character"]

        for edit in sorted(edits, key=lambda edit: -spots(edit["range"]["start"])):
            start, end = spots(edit["range"]["start"]), spots(edit["range"]["end"])
            data = data[:start] + edit["newText"].encode("utf-16-le") + data[end:]
        self.texts[uri] = data.decode("utf-16-le")

    def apply(self, params):
        for change in params["edit"]["documentChanges"]:
            uri = change["textDocument"]["uri"]
            if change["textDocument"]["version"] != self.versions[uri]:
                return {"applied": False, "failureReason": "stale"}
            before = self.texts[uri]
            self.edit(uri, change["edits"])
            self.versions[uri] += 1
            assert before != self.texts[uri]
            named = {"uri": uri, "version": self.versions[uri]}
            self.tell("textDocument/didChange", {"textDocument": named, "contentChanges": [{"text": self.texts[uri]}]})
        return {"applied": True}

    def complete(self, uri, line, character, kind=1):
        return {
            "textDocument": {"uri": uri}, "position": {"line": line, "character": character},
            "context": {"triggerKind": kind},
        }  # fmt: skip

    def run(self, name, **told):
        return self.ask("workspace/executeCommand", {"command": f"mezzotint.{name}", "arguments": [told]})

    def close(self, politely=True):
        """-> the exit code and what went to stderr, of a process."""
        if politely:
            self.ask("shutdown", None)
        with contextlib.suppress(OSError):
            self.tell("exit", None)
        if self.process is None:
            self.thread.join(WAIT)
            for pipe in (self.into, self.out, *self.streams):
                with contextlib.suppress(OSError):
                    pipe.close()
            return None
        try:
            self.process.wait(WAIT)
        finally:
            self.process.kill()
            with contextlib.suppress(OSError):
                self.into.close()
            self.listener.join(WAIT)
            self.out.close()
        return self.process.returncode, self.errors.get(timeout=WAIT).decode()


def span(a, b, c, d):
    return {"start": {"line": a, "character": b}, "end": {"line": c, "character": d}}
