"""Health calls have a concurrency group of their own in Ray: they are answered however many others an actor holds.

Ray gives the group an event loop in a thread of its own. A call that is to prove more than a process that lives
goes on to the loop that serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import ray

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])

#: Concurrency groups of every actor class with health calls, and how many calls each takes at once.
CONCURRENCY_GROUPS = {"health": 8}


def health_call(method: Method) -> Method:
    """Marks a method of an async actor; `actors.processes.actor_class` makes actors that have the group."""
    marked: Method = ray.method(concurrency_group="health")(method)
    return marked


async def answered_by(serving: asyncio.AbstractEventLoop, question: Coroutine[Any, Any, T]) -> T:
    """The result of `question`, which runs in `serving`; none comes while that loop hangs."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(question, serving))
