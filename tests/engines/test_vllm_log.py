"""vLLM's log keeps what is not known to be harmless."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from actors.engines.vllm.log_filter import filter_log

SCHEDULER = "vllm.v1.core.sched.scheduler"
BLOCKS = "vllm.v1.core.block_pool"
RELOAD = "vllm.model_executor.model_loader.reload.layerwise"


@pytest.fixture(autouse=True)
def filtered() -> Iterator[None]:
    before = {name: logging.getLogger(name).filters[:] for name in (SCHEDULER, BLOCKS, RELOAD)}
    filter_log()
    filter_log()
    yield
    for name, filters in before.items():
        logging.getLogger(name).filters[:] = filters


@pytest.mark.parametrize(
    ("logger", "message", "arguments", "stays"),
    [
        (SCHEDULER, "setting pause state to %s", ("PAUSED_ALL",), False),
        (SCHEDULER, "a request was preempted", (), True),
        (BLOCKS, "Successfully reset prefix cache", (), False),
        (BLOCKS, "Failed to reset prefix cache because some blocks (3) are not freed yet", (), True),
        (RELOAD, "%s: Failed to load weights", ("RotaryEmbedding",), False),
        (RELOAD, "%s: Failed to load weights", ("YaRNScalingRotaryEmbedding",), False),
        (RELOAD, "%s: Failed to load weights", ("QKVParallelLinear",), True),
        ("vllm.other", "setting pause state to %s", ("PAUSED_ALL",), True),
    ],
)
def test_only_what_comes_with_every_publish_is_left_out(
    caplog: pytest.LogCaptureFixture, logger: str, message: str, arguments: tuple[str, ...], stays: bool
) -> None:
    log = logging.getLogger(logger)
    log.addHandler(caplog.handler)
    try:
        log.warning(message, *arguments)
    finally:
        log.removeHandler(caplog.handler)
    assert bool(caplog.messages) == stays


@pytest.mark.parametrize(
    ("logger", "message"),
    [
        (SCHEDULER, '"setting pause state to %s"'),
        (BLOCKS, '"Successfully reset prefix cache"'),
        (RELOAD, '"%s: Failed to load weights", layer.__class__.__name__'),
    ],
)
def test_the_installed_vllm_writes_these_messages(logger: str, message: str) -> None:
    package = find_spec("vllm")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent.joinpath(*logger.split(".")[1:]).with_suffix(".py")
    assert message in path.read_text()
