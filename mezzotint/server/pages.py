"""Pages: the playground's files, read once from the package and sent as they are. Nothing of it comes from elsewhere."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import secrets
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request, Response

from mezzotint.server.errors import ApiError

FOLDER = Path(__file__).with_name("page")
TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}


@dataclass(frozen=True)
class File:
    body: bytes
    packed: bytes
    type: str
    tag: str


def files() -> dict[str, File]:
    """By path below the folder."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file():
            body = path.read_bytes()
            kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"
            tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
            found[path.relative_to(FOLDER).as_posix()] = File(body, gzip.compress(body, 9, mtime=0), kind, tag)
    return found


def policy(preview: str, nonce: str) -> dict[str, str]:
    """Headers of the page itself. preview: the origin whose frames it may hold; nonce: of the editor's own styles."""
    csp = {
        "default-src": "'none'", "script-src": "'self'", "style-src": f"'self' 'nonce-{nonce}'", "img-src": "'self' data: blob:",
        "connect-src": "'self'", "frame-src": preview, "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in csp.items()),
        "permissions-policy": f'camera=(self "{preview}"), microphone=(self "{preview}"), geolocation=(), usb=()',
        "referrer-policy": "no-referrer", "x-content-type-options": "nosniff", "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-store",
    }  # fmt: skip


def answer(file: File | None, request: Request) -> Response:
    """Raises ApiError 404."""
    if file is None:
        raise ApiError(404, "there is nothing at this address")
    headers = {
        "cache-control": "no-cache",
        "etag": file.tag,
        "x-content-type-options": "nosniff",
        "vary": "accept-encoding",
    }
    headers["content-security-policy"] = "sandbox; default-src 'none'"  # should one be opened by itself
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    body = file.body
    if "gzip" in request.headers.get("accept-encoding", ""):
        body, headers["content-encoding"] = file.packed, "gzip"
    return Response(
        body, media_type=f"{file.type}; charset=utf-8" if "image" not in file.type else file.type, headers=headers
    )


def index(file: File, preview: str) -> Response:
    nonce = secrets.token_urlsafe(16)
    return Response(
        file.body.replace(b"{nonce}", nonce.encode()),
        media_type="text/html; charset=utf-8",
        headers=policy(preview, nonce),
    )
