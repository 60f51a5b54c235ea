"""What stands in the tests for the program: its names, its objects and its errors.

The program may lie about its own objects, but must not learn what the tests expect of it. So it is asked what an object
does, and two of its objects it may compare. A value of the tests is compared and calculated with here, where the object
is plain data; elsewhere the tests cannot be judged.
"""

from __future__ import annotations

import builtins
import contextlib
import operator
from typing import Any

from maspo_dist.reward.code.messages import Channel, UnrunnableError, decode, encode

#: What an object does by itself, by the name of the built-in function or of the function in `operator`.
_ALONE = (
    *("len", "repr", "str", "bool", "hash", "next", "int", "float", "index", "round", "format"),
    *("abs", "neg", "pos", "invert", "getitem", "setitem", "delitem", "setattr", "delattr"),
)
#: What needs another value, also with the values exchanged and in place.
_CALCULATIONS = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "lshift", "rshift"),
)
_COMPARISONS = ("lt", "le", "gt", "ge", "contains")


class Candidate:
    """The other end of the channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._handles: dict[int, Handle] = {}
        #: The last error of the program, and a line for people about the error.
        self.raised: BaseException | None = None
        self.report = ""

    def ask(self, op: str, on: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Sends one request. Raises what the program raised, as a built-in exception."""
        inputs = encode([args, kwargs], kept_by_program)
        self._channel.send({"op": op, "on": encode(on, kept_by_program), "inputs": inputs})
        reply = self._channel.receive()
        if "error" in reply:
            self.report, self.raised = str(reply["report"]), self._raised(reply)
            raise self.raised
        if "inputs" in reply:
            new_args, new_kwargs = decode(reply["inputs"], self._handle)
            for mine, new in zip((*args, *kwargs.values()), (*new_args, *new_kwargs.values()), strict=True):
                _refill(mine, new)
        return decode(reply["value"], self._handle)

    def _raised(self, reply: dict[str, Any]) -> BaseException:
        kind: Any = getattr(builtins, reply["error"], None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            if "object" in reply:
                kind = _own_error(kind, decode(reply["object"], self._handle))
            with contextlib.suppress(TypeError):
                error: BaseException = kind(*decode(reply["args"], self._handle))
                return error
        return RuntimeError(self.report)

    def _handle(self, data: dict[str, int]) -> Handle:
        """The one handle of an object, so that `is` holds where it holds in the program."""
        return self._handles.setdefault(data["kept"], Handle(self, data))


class Handle:
    """An object in the candidate that is not plain data: a function, a class, an instance, a deque.

    Its own attributes are named as no attribute of the program is.
    """

    __slots__ = ("__candidate__", "__kept__")

    __candidate__: Candidate
    __kept__: dict[str, int]

    def __init__(self, candidate: Candidate, kept: dict[str, int]) -> None:
        object.__setattr__(self, "__candidate__", candidate)
        object.__setattr__(self, "__kept__", kept)

    def __plain__(self) -> Any:
        """The plain data; the handle itself where there is none."""
        return self.__candidate__.ask("plain", self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"'Handle' object has no attribute {name!r}")
        return self.__candidate__.ask("apply", self, "getattr", name)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.__candidate__.ask("call", self, *args, **kwargs)

    def __iter__(self) -> Any:
        found = self.__candidate__.ask("iter", self)
        return found if isinstance(found, Handle) else iter(found)

    def __eq__(self, other: object) -> Any:
        return self.__equality__("eq", other)

    def __ne__(self, other: object) -> Any:
        return self.__equality__("ne", other)

    def __equality__(self, name: str, other: object) -> Any:
        if isinstance(other, Handle):
            # Only the program knows whether its objects are equal.
            return self.__candidate__.ask("apply", self, name, other)
        plain = self.__plain__()
        return NotImplemented if isinstance(plain, Handle) else getattr(operator, name)(plain, other)

    def __instancecheck__(self, instance: Any) -> bool:
        instance = getattr(instance, "__error__", instance)
        return isinstance(instance, Handle) and self.__candidate__.ask("apply", instance, "isinstance", self) is True

    def __enter__(self) -> Any:
        return self.__candidate__.ask("apply", self, "getattr", "__enter__")()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """The program neither sees nor suppresses an error of the tests."""
        if error is None:
            self.__candidate__.ask("apply", self, "getattr", "__exit__")(None, None, None)
        elif error is not self.__candidate__.raised and not isinstance(error, (AssertionError, UnrunnableError)):
            raise UnrunnableError(f"they leave a with-block of the program by {type(error).__name__}")

    def __reduce_ex__(self, version: object) -> Any:
        raise UnrunnableError("they copy an object of the program")


def _alone(name: str) -> Any:
    def method(self: Handle, *args: Any) -> Any:
        return self.__candidate__.ask("apply", self, name, *args)

    return method


def _with_another(name: str, special: str, *, exchanged: bool = False) -> Any:
    function = getattr(operator, name)

    def method(self: Handle, other: Any) -> Any:
        if isinstance(other, Handle):
            return self.__candidate__.ask("apply", self, name, other)
        if not isinstance(plain := self.__plain__(), Handle):
            return function(other, plain) if exchanged else function(plain, other)
        if self.__candidate__.ask("has", self, special) is True:
            raise UnrunnableError(f"they give a value to {special} of an object of the program, which may not see it")
        raise TypeError(f"the program's object has no {special}")

    return method


for _name in _ALONE:
    setattr(Handle, f"__{_name}__", _alone(_name))
for _name in _COMPARISONS:
    setattr(Handle, f"__{_name}__", _with_another(_name, f"__{_name}__"))
for _name in _CALCULATIONS:
    _bare = _name.rstrip("_")
    setattr(Handle, f"__{_bare}__", _with_another(_name, f"__{_bare}__"))
    setattr(Handle, f"__r{_bare}__", _with_another(_name, f"__r{_bare}__", exchanged=True))
    setattr(Handle, f"__i{_bare}__", _with_another(f"i{_bare}", f"__{_bare}__"))


def kept_by_program(value: Any) -> Any:
    """The data that stand for a handle. Raises UnrunnableError for an object of the tests."""
    if isinstance(value, Handle):
        return value.__kept__
    raise UnrunnableError(f"they pass the program an object of type {type(value).__name__}")


def _own_error(kind: type[Exception], error: Handle) -> type[Exception]:
    """The kind of an error whose class is the program's: the program answers for its text and its attributes."""
    return type(
        kind.__name__,
        (kind,),
        {
            "__error__": error,
            "__getattr__": lambda _, name: getattr(error, name),
            "__str__": lambda _: str(error),
        },
    )


def _refill(mine: Any, new: Any) -> None:
    """Copies into an argument what the program changed in its own copy."""
    if isinstance(mine, list) and isinstance(new, list):
        mine[:] = new
    elif isinstance(mine, (dict, set)) and type(mine) is type(new):
        mine.clear()
        mine.update(new)
