"""The process of one or more checks: `python -m actors.bench.gpu.child FOLDER DEVICE SCALE NAME=TARGET…`.

It appends a line to FOLDER/results.jsonl after each check, and ends at the first check that raises.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

from actors.bench.gpu.result import CheckResult, crashed, encode, judged
from actors.bench.gpu.setting import Setting
from actors.bench.gpu.workplace import Workplace
from maspo_dist.reward.pool.lifetime import end_with_parent

RESULTS = "results.jsonl"
_SHOWN_CHARACTERS = 300


def main(folder: Path, setting: Setting, checks: list[str]) -> int:
    """Runs `checks`, each as NAME=TARGET. The exit code: 1 after a check that raised."""
    place = Workplace(setting, folder)
    try:
        for check in checks:
            result, is_whole = _result(place, *check.split("=", 1))
            with (folder / RESULTS).open("a", encoding="utf-8") as file:
                file.write(encode(result) + "\n")
            if not is_whole:
                return 1
    finally:
        place.close()
    return 0


def _result(place: Workplace, name: str, target: str) -> tuple[CheckResult, bool]:
    """The result, and whether the check came to its end."""
    module, _, function = target.partition(":")
    started_s = time.monotonic()
    try:
        measured = getattr(import_module(module), function)(place)
        return judged(name, place.device_name, time.monotonic() - started_s, measured), True
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_SHOWN_CHARACTERS]
        return crashed(name, place.setting.device, time.monotonic() - started_s, reason), False


if __name__ == "__main__":
    end_with_parent(os.getppid())
    path, device, scale, *chosen = sys.argv[1:]
    code = main(Path(path), Setting(device="cuda" if device == "cuda" else "cpu", is_tiny=scale == "tiny"), chosen)
    sys.stdout.flush()
    # At once: threads of closed process groups would outlive what the interpreter's exit destroys.
    os._exit(code)
