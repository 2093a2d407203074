"""Conversation: turns of a chat, cut to the model's context. The oldest turns go first; the system message stays.

[system] [user, assistant] [user, assistant] ... [user] -> a Request
          dropped when the context is full
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mezzotint.engine.engine import Engine
from mezzotint.engine.remote import Remote
from mezzotint.engine.request import Request


@dataclass
class Conversation:
    """settings: a Request whose prompt is left out of account. turns: (what the user said, what was answered)."""

    engine: Engine | Remote
    settings: Request
    system: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list)

    def messages(self, text: str) -> list[dict[str, str]]:
        said = [{"role": "system", "content": self.system}] if self.system else []
        for question, answer in self.turns:
            said += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return [*said, {"role": "user", "content": text}]

    def ask(self, text: str) -> tuple[Request, int]:
        """The request for the next answer, and how many of the oldest turns were dropped to make it fit.

        A message that does not fit alone is left for the engine to refuse, and so is all that a remote model is told.
        """
        if isinstance(self.engine, Remote):
            return replace(self.settings, prompt=self.messages(text)), 0
        room = self.engine.checkpoint.config.max_length - self.settings.max_tokens
        kept = self.turns
        while self.turns and len(self.engine.tokenizer.chat(self.messages(text))) > room:
            self.turns = self.turns[1:]
        return replace(self.settings, prompt=self.messages(text)), len(kept) - len(self.turns)

    def answered(self, text: str, answer: str) -> None:
        self.turns = [*self.turns, (text, answer)]

    def reset(self) -> None:
        """Forget the turns."""
        self.turns = []
