"""What Ray raises, as those see it who wait."""

import pytest
from ray import exceptions as ray_exceptions
from ray.exceptions import RayError, RayTaskError

from actors.ray.errors import ray_errors
from maspo_dist.errors import ActorDiedError, BodyLostError, WeightSyncError

GONE = [
    ray_exceptions.ActorDiedError(),
    ray_exceptions.ActorUnavailableError("the node does not answer", None),
    ray_exceptions.OutOfMemoryError("Task was killed due to the node running low on memory."),
    ray_exceptions.NodeDiedError("its node is gone"),
    ray_exceptions.WorkerCrashedError(),
    ray_exceptions.LocalRayletDiedError(),
    ray_exceptions.ActorUnschedulableError("no node can hold it"),
    ray_exceptions.ActorPlacementGroupRemoved(),
    ray_exceptions.RaySystemError("the worker did not start"),
]
LOST = ray_exceptions.ObjectLostError("ab" * 28, None, "")


def named(error: Exception) -> str:
    return type(error).__name__


def raised_by_an_actor(cause: Exception) -> RayTaskError:
    """As it arrives here: also an instance of the cause's class where that can be."""
    error = RayTaskError("generate", "Traceback …", cause, proctitle="ray::Actor", pid=1, ip="10.0.0.1")
    return error.as_instanceof_cause()


@pytest.mark.parametrize("error", GONE, ids=named)
def test_an_error_of_ray_says_that_the_process_is_gone(error: RayError) -> None:
    with (
        pytest.raises(ActorDiedError, match=r"^worker 1: ping: the process behind it died \("),
        ray_errors("worker 1: ping"),
    ):
        raise error


@pytest.mark.parametrize("error", GONE, ids=named)
def test_an_error_of_ray_that_the_actor_met_says_so(error: RayError) -> None:
    with (
        pytest.raises(ActorDiedError, match=r"^worker 1: ping: what it relied on is gone \("),
        ray_errors("worker 1: ping"),
    ):
        raise raised_by_an_actor(error)


def test_an_object_that_the_actor_cannot_read_any_more_went_with_its_node() -> None:
    with (
        pytest.raises(BodyLostError, match="update: what it was to read is gone with its node"),
        ray_errors("update"),
    ):
        raise raised_by_an_actor(LOST)
    with pytest.raises(BodyLostError, match="group 3: it is gone with its node"), ray_errors("group 3"):
        raise LOST


def test_what_an_actor_raises_on_purpose_is_raised_as_it_was() -> None:
    purpose = WeightSyncError("the proof failed")
    with pytest.raises(WeightSyncError) as caught, ray_errors("publish"):
        raise raised_by_an_actor(purpose)
    assert caught.value is purpose


class UnpicklableError(Exception):
    def __reduce__(self) -> str:
        raise TypeError("no pickle")


@pytest.mark.parametrize("bug", [KeyError("no such key"), OSError("disk full"), UnpicklableError()], ids=named)
def test_a_bug_in_an_actor_keeps_its_traceback(bug: Exception) -> None:
    with pytest.raises(RayTaskError), ray_errors("update"):
        raise raised_by_an_actor(bug)
