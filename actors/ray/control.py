"""How a live run is reached from another shell: a named actor that holds the last request until the run takes it."""

from __future__ import annotations

#: Ray namespace of all runs, and the actor's name in it.
NAMESPACE = "maspo-dist"


def control_name(run_name: str) -> str:
    return f"maspo-run:{run_name}"


class RunControl:
    """One a run; ends with it."""

    def __init__(self) -> None:
        self._workers: int | None = None
        self._serving = 0

    def request_workers(self, workers: int) -> None:
        """Asks the run for this many rollout workers; a later request replaces one not yet taken."""
        self._workers = workers

    def exchange(self, serving: int) -> int | None:
        """The run's side: tells how many workers serve, takes the request, if any."""
        self._serving = serving
        workers, self._workers = self._workers, None
        return workers

    def serving(self) -> int:
        """Workers that serve, as last told."""
        return self._serving
