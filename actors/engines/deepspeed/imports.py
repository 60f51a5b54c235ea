"""Importing DeepSpeed: it reads its environment once, prints, and compiles unless told otherwise."""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import redirect_stdout
from typing import Any

import torch

from maspo_dist.runs.logs import LogStream


def import_deepspeed(device: torch.device) -> Any:
    """The module, set up for `device` at the first call in a process; nothing is printed."""
    # Read once, at import: hence not at the top of a file, before the device is known.
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    # Ray shows each rank its own device alone. A value that a launcher left would bind NCCL to another.
    os.environ["LOCAL_RANK"] = "0"
    with redirect_stdout(LogStream()):
        import deepspeed

    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # An all-reduce through shared memory that is compiled at first use: minutes, and it prints.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    for name in ("DeepSpeed", "deepspeed"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    return deepspeed
