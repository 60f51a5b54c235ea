"""Which of our errors each error of Ray becomes."""

import pytest
from ray import exceptions as ray_exceptions
from ray.exceptions import RayError, RayTaskError

from actors.ray.errors import reason_of, translate_ray_errors
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
    """The error as Ray delivers it: also an instance of the cause's class, where Python allows that."""
    error = RayTaskError("generate", "Traceback …", cause, proctitle="ray::Actor", pid=1, ip="10.0.0.1")
    return error.as_instanceof_cause()


@pytest.mark.parametrize("error", GONE, ids=named)
def test_an_error_of_ray_means_that_the_process_died(error: RayError) -> None:
    with (
        pytest.raises(ActorDiedError, match=r"^worker 1: ping: the process died \("),
        translate_ray_errors("worker 1: ping"),
    ):
        raise error


@pytest.mark.parametrize("error", GONE, ids=named)
def test_an_error_of_ray_inside_the_actor_means_that_a_process_it_depends_on_died(error: RayError) -> None:
    with (
        pytest.raises(ActorDiedError, match=r"^worker 1: ping: a process that it depends on died \("),
        translate_ray_errors("worker 1: ping"),
    ):
        raise raised_by_an_actor(error)


def test_a_lost_object_was_lost_with_its_node() -> None:
    with (
        pytest.raises(BodyLostError, match="update: an object that it reads was lost with its node"),
        translate_ray_errors("update"),
    ):
        raise raised_by_an_actor(LOST)
    with (
        pytest.raises(BodyLostError, match="group 3: the object was lost"),
        translate_ray_errors("group 3"),
    ):
        raise LOST


def test_an_expected_error_of_an_actor_is_raised_unchanged() -> None:
    purpose = WeightSyncError("the proof failed")
    with pytest.raises(WeightSyncError) as caught, translate_ray_errors("publish"):
        raise raised_by_an_actor(purpose)
    assert caught.value is purpose


class UnpicklableError(Exception):
    def __reduce__(self) -> str:
        raise TypeError("no pickle")


@pytest.mark.parametrize("bug", [KeyError("no such key"), OSError("disk full"), UnpicklableError()], ids=named)
def test_a_bug_in_an_actor_keeps_its_traceback(bug: Exception) -> None:
    with pytest.raises(RayTaskError), translate_ray_errors("update"):
        raise raised_by_an_actor(bug)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ActorDiedError("worker 1 died"), "worker 1 died"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (RuntimeError("CUDA out of memory\nTried to allocate"), "RuntimeError: CUDA out of memory"),
        (ValueError(), "ValueError: "),
        (raised_by_an_actor(RuntimeError("CUDA out of memory")), "RuntimeError: CUDA out of memory"),
    ],
)
def test_the_reason_of_an_error_is_one_line_without_the_traceback_of_an_actor(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
