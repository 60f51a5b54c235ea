"""Checks for the GPU bench that end in every way in which a check can end. They need neither a model nor a GPU."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import NoReturn

from actors.bench.gpu.result import Limit, Measured
from actors.bench.gpu.workplace import Workplace


def passes(place: Workplace) -> Measured:
    (place.folder / "left.bin").write_bytes(b"x")
    return Measured(figures={"speed": 2.0, "process": os.getpid()}, limits=(Limit(figure="speed", least=1.0),))


def breaks_its_limit(place: Workplace) -> Measured:
    return Measured(figures={"gap": 0.07}, limits=(Limit(figure="gap", most=0.05),))


def raises(place: Workplace) -> NoReturn:
    raise RuntimeError("CUDA out of memory.\nTried to allocate 2.00 GiB")


def dies(place: Workplace) -> NoReturn:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("still alive")


def exits(place: Workplace) -> NoReturn:
    print("the driver is gone")
    sys.exit(7)


def hangs(place: Workplace) -> NoReturn:
    threading.Event().wait()
    raise AssertionError("woke up")
