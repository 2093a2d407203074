"""What goes wrong with checkpoints: a bad file (CheckpointError) or a file that could not be had (FetchError)."""

from __future__ import annotations

from pathlib import Path

_LONGEST = (
    300  # characters of a part of a message: names and values come from the file, and a damaged one has any length
)


def _clip(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 60]} [...] {text[-50:]}"


class CheckpointError(ValueError):
    """A file that is not a checkpoint we can read. The message names the file, the field and, where known, the byte.

    file: path, field: what was being read, problem: what is wrong with it, offset: byte in the file or None.
    """

    def __init__(self, file: str | Path, field: str, problem: str, offset: int | None = None) -> None:
        self.file, self.field, self.problem, self.offset = str(file), _clip(field), _clip(problem), offset
        where = f"{self.field} at byte {offset}" if offset is not None else self.field
        super().__init__(f"{self.file}: {where}: {self.problem}")


class FetchError(RuntimeError):
    """Weights that could not be fetched or verified.

    One sentence that says what happened and one that says what to do.
    """
