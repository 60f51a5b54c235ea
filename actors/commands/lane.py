"""One process that trains runs one after another, for `maspo-dist compare`.

    standard input   one run per line: {"log": FILE, "config": FILE, "overrides": [dotted.key=value, …]}
    standard output  the exit code of each run, as `maspo-dist train` has it, one per line

What a run prints goes to its log. All runs share one start of Ray, and a run leaves its engines and learner processes
to the next run if that run needs equal ones, see `actors.warm`. After a run that fails, or is interrupted, the process
ends: the next run starts from nothing.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

from actors.commands.exit_codes import explain
from actors.commands.training import train
from actors.ray.connection import disconnect
from actors.warm import Shelf
from maspo_dist.config import load_config
from maspo_dist.errors import MaspoError
from maspo_dist.models.path import require_model
from maspo_dist.runs.logs import redirect_output


def train_in_turn(answers: TextIO) -> None:
    """Trains until standard input ends, a run fails, or a signal comes. Ends every process that it started."""
    shelf = Shelf()
    try:
        for line in sys.stdin:
            order = json.loads(line)
            redirect_output(Path(order["log"]))
            code = _exit_code(order, shelf)
            # The run's handlers are gone, and without any a signal would leave processes behind.
            signal.signal(signal.SIGTERM, _leave)
            # Objects of the run refer to each other, and keep weights in Ray's object store.
            gc.collect()
            print(code, file=answers, flush=True)
            if code != 0:
                break
    finally:
        try:
            asyncio.run(shelf.end())
        finally:
            disconnect()


def _exit_code(order: dict[str, Any], shelf: Shelf) -> int:
    try:
        config = load_config(order["config"], order["overrides"])
        require_model(config.model.path)
        train(config, shelf=shelf)
    except (MaspoError, OSError) as error:
        try:
            return explain(error)
        except OSError:
            traceback.print_exc()
            return 1
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _leave(which: int, _: object) -> None:
    sys.exit(128 + which)
