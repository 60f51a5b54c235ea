"""Health calls: an actor answers them however many other calls it holds.

They have a concurrency group of their own, which Ray gives an event loop in a thread of its own. To check more
than liveness, `answered_by` forwards a call to the event loop that serves requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import ray

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])

#: Concurrency groups of every actor class with health calls: how many health calls run at once.
CONCURRENCY_GROUPS = {"health": 8}


def health_call(method: Method) -> Method:
    """Marks a method of an async actor as a health call; make the actor with `actors.ray.actor_options.actor_class`."""
    marked: Method = ray.method(concurrency_group="health")(method)
    return marked


async def answered_by(serving: asyncio.AbstractEventLoop, question: Coroutine[Any, Any, T]) -> T:
    """The result of `question`, which runs in the event loop `serving`; no result comes while that loop hangs."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(question, serving))
