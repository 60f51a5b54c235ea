"""What the user sees during an evaluation: a line that is redrawn in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable
from typing import Self, TextIO

from rich.console import Console
from rich.markup import escape

from maspo_dist.views.format import format_count, format_duration

_PLAIN_EVERY_S = 10.0


class EvaluationConsole:
    """Progress on `stream`, usually standard error. Use it as a context manager."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = Console(file=stream, soft_wrap=True, highlight=False)
        self._status = self._console.status("starting")
        self._clock = clock
        self._started_s = 0.0
        self._said = ("", 0.0)
        self._tokens = 0
        self._ended = 0

    def waiting_for(self, what: str) -> None:
        """Start-up waits for `what`; call it at each poll."""
        text = f"waiting for {what}"
        if self._said[0] != text:
            self._say(text)

    def sampling(self, done: int, total: int) -> None:
        """Sampling starts, with `done` of `total` problems finished earlier."""
        self._started_s = self._clock()
        self._say(f"{done} of {total} problems were finished before" if done else f"{total} problems")

    def ended(self, done: int, total: int, tokens: int) -> None:
        """One more problem has ended, with `tokens` of responses."""
        now = self._clock()
        self._tokens += tokens
        self._ended += 1
        seconds = max(now - self._started_s, 1e-3)
        left = format_duration(seconds / self._ended * (total - done))
        if self._console.is_terminal or done == total or now - self._said[1] >= _PLAIN_EVERY_S:
            self._say(f"{done}/{total} problems, {format_count(self._tokens / seconds)} tokens/s, about {left} left")

    def _say(self, text: str) -> None:
        self._said = (text, self._clock())
        if self._console.is_terminal:
            self._status.update(escape(text))
        else:
            self._console.print(text, markup=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._status.stop()
