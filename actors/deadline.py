"""Every wait has a deadline and a name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import ray

from maspo_dist.errors import ActorDiedError, DeadlineError, MaspoError

T = TypeVar("T")


async def within(seconds: float, what: str, awaitable: Awaitable[T]) -> T:
    """The result of `awaitable`, or an error that says what was waited for.

    Raises DeadlineError past `seconds`, ActorDiedError when the actor behind it died, and errors that
    the actor raised on purpose as they were raised there.
    """
    try:
        return await asyncio.wait_for(awaitable, seconds)
    except TimeoutError:
        raise DeadlineError(f"{what}: no answer within {seconds:g} s") from None
    except ray.exceptions.RayActorError as error:
        raise ActorDiedError(f"{what}: the process behind it died ({_cause(error)})") from error
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MaspoError):
            raise error.cause from None
        raise


def _cause(error: Exception) -> str:
    """The telling line of Ray's long report."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "because" in line or "exit" in line.lower()]
    return (telling or lines or [type(error).__name__])[0]
