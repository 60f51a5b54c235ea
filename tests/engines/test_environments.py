"""The environment of learners and engines, by device."""

from __future__ import annotations

from actors.engines.settings import engine_environment, learner_environment


def test_a_learner_on_a_gpu_has_memory_that_grows_by_segments() -> None:
    assert learner_environment("cuda", 4, shares_memory=False) == {
        "OMP_NUM_THREADS": "4",
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    }
    assert learner_environment("cpu", 2, shares_memory=False) == {"OMP_NUM_THREADS": "2"}


def test_a_learner_whose_memory_engines_read_has_plain_memory() -> None:
    """Docker and many kernels let no other process open expandable segments."""
    assert learner_environment("cuda", 4, shares_memory=True) == {
        "OMP_NUM_THREADS": "4",
        # Both names, since the environment of the node may set either.
        "PYTORCH_ALLOC_CONF": "expandable_segments:False",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False",
    }


def test_an_engine_has_the_threads_that_it_is_given() -> None:
    for device in ("cpu", "cuda"):
        assert engine_environment(device, 3)["OMP_NUM_THREADS"] == "3"
