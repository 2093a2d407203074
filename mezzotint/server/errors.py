"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}} with a status."""

from __future__ import annotations

import math
from typing import Any

TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What went wrong, for the client. param: the field at fault; headers: further ones of the answer."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    def to_json(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, code, param)


def busy(status: int, message: str, code: str, seconds: float) -> ApiError:
    """One to be tried again after `seconds`."""
    return ApiError(status, message, code, headers={"Retry-After": str(min(60, max(1, math.ceil(seconds))))})


def of(error: Exception) -> ApiError:
    """What a client is told of a failure: ours as it is, a refused value as 400, the rest without its details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ValueError):
        return bad(str(error))
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        return busy(503, "there is not enough memory for this request", "out_of_memory", 1)
    return ApiError(500, "the server failed at this request", "internal_error")
