"""Settings: where the server listens, who may ask, and how much of everything."""

from __future__ import annotations

from dataclasses import dataclass

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_CHOICES = 8  # n
MOST_PROMPTS = 64  # of one request, choices counted
MOST_STOPS = 16
MOST_BIASES = 1024  # ids of a logit_bias
MOST_INPUTS = 256  # texts of one request for embeddings
MOST_QUESTIONS = 64  # of one request for decisions
MOST_OPTIONS = 255  # of one question
MOST_FIELDS = 1024  # of a body, and locks of an edit
MOST_MESSAGES = 4096
MOST_TRACES = 64  # that are kept
MOST_FRAMES = 200_000  # of them all together
LATE = 0.5  # seconds that an answer may come after its deadline_ms, before it is refused
LONGEST_STOP = 256  # characters
LONGEST_HOLE = 64  # tokens between a prompt and its suffix


@dataclass(frozen=True)
class Settings:
    """name: of the model, for clients. preview_port: of the playground's previews, 0 any. queue: requests that may wait.
    max_tokens: longest answer. Seconds: deadline of a request, grace of a shutdown, receive for a request to arrive,
    patience with a slow reader. remotes: models elsewhere that the playground may ask. audio_bytes: of a recording.
    transcriber: what hears (`live/transcribe.py`). interval: seconds between two pieces of a stream at least.
    Raises ValueError for values out of range, and for an open address without a key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = ()
    name: str = "default"
    queue: int = 64
    max_tokens: int = 4096
    body_bytes: int = 2 << 20
    audio_bytes: int = 25 << 20
    deadline: float = 300.0
    grace: float = 30.0
    receive: float = 10.0
    patience: float = 30.0
    interval: float = 0.05
    preview_port: int = 0
    remotes: tuple[str, ...] = ()
    transcriber: str = "pocketsphinx"

    def __post_init__(self) -> None:
        for field in ("port", "preview_port"):
            if not 0 <= (value := getattr(self, field)) <= 65535:
                raise ValueError(f"{field} is {value}; it must lie between 0 and 65535")
        for field in ("queue", "max_tokens", "body_bytes", "audio_bytes", "deadline", "grace", "receive", "patience"):
            if not (value := getattr(self, field)) > 0:
                raise ValueError(f"{field} is {value}; it must be more than 0")
        if not 0 <= self.interval <= 10:
            raise ValueError(f"interval is {self.interval:g} s; it must lie between 0 and 10 s")
        if any(not key.strip() for key in self.keys):
            raise ValueError("an API key is empty")
        if not self.keys and not self.local:
            raise ValueError(
                f"host {self.host!r} can be reached from elsewhere, and anyone could ask; give API keys, or one of "
                f"{', '.join(LOOPBACK)}"
            )

    @property
    def local(self) -> bool:
        """Does it listen to this machine alone?"""
        return self.host in LOOPBACK


@dataclass(frozen=True)
class Size:
    """Of a cluster. replicas: at least; most: of them; ranks: processes over which each replica's network is split.

    Raises ValueError for numbers that make no sense.
    """

    replicas: int
    most: int
    ranks: int = 1

    def __post_init__(self) -> None:
        for name, value in (("replicas", self.replicas), ("tensor-parallel", self.ranks)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.most < self.replicas:
            raise ValueError(f"max-replicas is {self.most}; it must be at least the {self.replicas} of replicas")
