"""Ray's errors as ours."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from maspo_dist.errors import ActorDiedError, BodyLostError, MaspoError

#: Ray explains a death at length; its log has the whole.
_CAUSE_CHARACTERS = 160


@contextmanager
def ray_errors(what: str) -> Iterator[None]:
    """Ray's errors as ours: what an actor raised on purpose as it was raised there, BodyLostError for an object that
    is gone, and ActorDiedError for every other error of Ray itself, met here or by the actor. Other errors of an
    actor, bugs that is, pass unchanged.
    """
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, MaspoError):
            raise cause from None
        if isinstance(cause, ray.exceptions.ObjectLostError):
            raise BodyLostError(f"{what}: what it was to read is gone with its node") from error
        # A bare RayError stands for an actor's own error that could not be pickled.
        if isinstance(cause, ray.exceptions.RayError) and type(cause) is not ray.exceptions.RayError:
            raise ActorDiedError(f"{what}: what it relied on is gone ({_cause(cause)})") from error
        raise
    except ray.exceptions.ObjectLostError as error:
        raise BodyLostError(f"{what}: it is gone with its node") from error
    except ray.exceptions.RayError as error:
        raise ActorDiedError(f"{what}: the process behind it died ({_cause(error)})") from error


def _cause(error: Exception) -> str:
    """The telling line of Ray's long report."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "because" in line or "exit" in line.lower()]
    return textwrap.shorten((telling or lines or [type(error).__name__])[0], _CAUSE_CHARACTERS, placeholder=" …")
