"""Translates Ray's errors into those of `maspo_dist.errors`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from maspo_dist.errors import ActorDiedError, BodyLostError, MaspoError

#: Ray explains a death at length; its log holds the full text.
_CAUSE_CHARACTERS = 160


@contextmanager
def translate_ray_errors(what: str) -> Iterator[None]:
    """Translates errors of Ray calls; `what` names the call in the message.

    A MaspoError that an actor raised      is raised unchanged
    a lost object                          BodyLostError
    any other error of Ray itself          ActorDiedError, also when the actor got it from a call of its own
    any other error of an actor (a bug)    passes as Ray's RayTaskError
    """
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, MaspoError):
            raise cause from None
        if isinstance(cause, ray.exceptions.ObjectLostError):
            raise BodyLostError(f"{what}: an object that it reads was lost with its node") from error
        # A bare RayError is an actor's own error that could not be pickled.
        if isinstance(cause, ray.exceptions.RayError) and type(cause) is not ray.exceptions.RayError:
            raise ActorDiedError(f"{what}: a process that it depends on died ({_cause(cause)})") from error
        raise
    except ray.exceptions.ObjectLostError as error:
        raise BodyLostError(f"{what}: the object was lost with its node") from error
    except ray.exceptions.RayError as error:
        raise ActorDiedError(f"{what}: the process died ({_cause(error)})") from error


def reason_of(error: Exception) -> str:
    """One line for people: the message of a MaspoError; the type and first line of any other error.

    Of an error that an actor raised, not of Ray's report with its traceback.
    """
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(cause, MaspoError):
        return str(cause)
    first_line = next(iter(str(cause).splitlines()), "")
    return f"{type(cause).__name__}: {first_line}"


def _cause(error: Exception) -> str:
    """The line of Ray's report that gives the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if "because" in line or "exit" in line.lower()]
    return textwrap.shorten((reasons or lines or [type(error).__name__])[0], _CAUSE_CHARACTERS, placeholder=" …")
