"""A server of a few lines on a raw socket: each connection gets the next bytes of a script; what was asked is kept."""

import json
import socket
import threading
from contextlib import contextmanager


class Script:
    def __init__(self, replies):
        self.replies, self.heads, self.bodies = list(replies), [], []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        self.held = []  # connections that are to stay open and silent

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            data = b""
            while b"\r\n\r\n" not in data and (piece := connection.recv(65536)):
                data += piece
            if not data:
                connection.close()
                continue
            head, _, body = data.partition(b"\r\n\r\n")
            length = next(
                (int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-len")), 0
            )
            while len(body) < length:
                body += connection.recv(65536)
            self.heads.append(head.decode())
            self.bodies.append(json.loads(body) if body else None)
            reply = self.replies.pop(0) if self.replies else status(500, {"error": {"message": "the script is over"}})
            if reply is None:
                self.held.append(connection)
                continue
            connection.sendall(reply)
            connection.close()


@contextmanager
def scripted(*replies):
    """Its url and what it was asked. A reply: bytes, or None to say nothing."""
    server = Script(replies)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
        for connection in server.held:
            connection.close()
        thread.join(10)
        assert not thread.is_alive()


def status(code, body, **headers):
    data = json.dumps(body).encode() if not isinstance(body, bytes) else body
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (
        f"HTTP/1.1 {code} x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n{more}\r\n".encode()
        + data
    )


def stream(*chunks, done=True, chunked=True, whole=True):
    """Chunks as a stream of events. whole=False: it breaks off before its end."""
    lines = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks] + ([b"data: [DONE]\n\n"] if done else [])
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    if not chunked:
        return head + b"connection: close\r\n\r\n" + b"".join(lines)
    packed = b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in lines)
    return head + b"transfer-encoding: chunked\r\n\r\n" + packed + (b"0\r\n\r\n" if whole else b"")


def delta(text, reason=None, **more):
    return {"choices": [{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": reason}], **more}
