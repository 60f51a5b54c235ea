"""The environment of learners and engines, by device."""

from __future__ import annotations

from actors.engines.settings import engine_environment, learner_environment


def test_a_learner_on_a_gpu_has_memory_that_grows_by_segments() -> None:
    assert learner_environment("cuda", 4) == {
        "OMP_NUM_THREADS": "4",
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    }
    assert learner_environment("cpu", 2) == {"OMP_NUM_THREADS": "2"}


def test_an_engine_has_the_threads_that_it_is_given() -> None:
    for device in ("cpu", "cuda"):
        assert engine_environment(device, 3)["OMP_NUM_THREADS"] == "3"
