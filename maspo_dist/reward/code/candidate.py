"""A program that is called, in its sandbox: answers the judge."""

from __future__ import annotations

import builtins
import operator
import sys
from collections.abc import Callable
from typing import Any

from maspo_dist.reward.code.harness import PROGRAM_FILE, execute, prepare
from maspo_dist.reward.code.messages import Channel, decode, encode, plain_data


def serve(numpy: str) -> None:
    """Runs the program, then answers the judge until the judge ends."""
    prepare(numpy)
    channel = Channel()
    kept: list[Any] = []
    places: dict[int, int] = {}

    def keep(value: Any) -> dict[str, int]:
        place = places.setdefault(id(value), len(kept))
        if place == len(kept):
            kept.append(value)
        return {"kept": place}

    def resolve(data: dict[str, int]) -> Any:
        return kept[data["kept"]]

    try:
        execute("candidate")
    except BaseException as error:  # Any error of the program is sent as its answer.
        ended_well = isinstance(error, SystemExit) and not error.code
        channel.send({"value": None} if ended_well else failure(error, keep))
    else:
        channel.send({"value": None})
    while True:
        request = channel.receive()
        try:
            args, kwargs = decode(request["inputs"], resolve)
            reply = {"value": encode(answer(request["op"], decode(request["on"], resolve), args, kwargs), keep)}
            if (inputs := encode([args, kwargs], keep)) != request["inputs"]:
                reply["inputs"] = inputs
        except BaseException as error:  # as above
            reply = failure(error, keep)
        channel.send(reply)


def failure(error: BaseException, keep: Callable[[Any], Any]) -> dict[str, Any]:
    """An error of the program as a reply: its built-in kind, its arguments, and a line for people.

    The reply also keeps an error whose class is the program's own.
    """
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == PROGRAM_FILE else line
        trace = trace.tb_next
    base = next(base.__name__ for base in type(error).__mro__ if base.__module__ == "builtins")
    report = f"{type(error).__name__}: {str(error)[:300]} (line {line} of the program)"
    reply = {"error": base, "args": encode(error.args, keep), "report": report}
    own = {} if base == type(error).__name__ else {"object": keep(error.with_traceback(None))}
    return reply | own


def answer(op: str, on: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The answer to one request about the name or the object `on`."""
    names = sys.modules["candidate"].__dict__
    match op:
        case "name" if on in names:
            return names[on]
        case "name":
            raise NameError(f"the program defines no {on}")
        case "function":
            solution: Any = names.get("Solution")
            is_method = hasattr(solution, on)
            return plain_data((getattr(solution(), on) if is_method else answer("name", on, (), {}))(*args, **kwargs))
        case "apply":
            function, *operands = args
            return (getattr(builtins, function, None) or getattr(operator, function))(on, *operands)
        case "call":
            return on(*args, **kwargs)
        case "iter":
            # An iterator may have no end: it is sent item by item.
            plain = plain_data(on) if hasattr(type(on), "__len__") else on
            return iter(on) if plain is on else plain
        case "has":
            return getattr(type(on), args[0], None) is not getattr(object, args[0], None)
    return plain_data(on)
