"""What every program in a sandbox starts with. `sandbox` passes these files as source text and calls one function:

    harness.run_script   a program that reads standard input and writes standard output
    candidate.serve      a program that is called: answers calls
    judge.run_tests      the tests of a program that is called

Standard library only, and little of it: all of this runs before each program.
"""

from __future__ import annotations

import builtins
import importlib
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

PROGRAM_FILE = "main.py"

#: Names that a program may use without an import, as on most judges; modules may be named too.
_PROVIDED = {
    "typing": "Any Callable DefaultDict Deque Dict FrozenSet Generator Iterable Iterator List Optional Sequence Set"
    " Tuple Type Union",
    "collections": "ChainMap Counter OrderedDict defaultdict deque namedtuple",
    "heapq": "heapify heappop heappush heappushpop heapreplace nlargest nsmallest",
    "bisect": "bisect_left bisect_right insort insort_left insort_right",
    "itertools": "accumulate chain combinations combinations_with_replacement count cycle groupby islice pairwise"
    " permutations product repeat starmap takewhile zip_longest",
    "functools": "cache cmp_to_key lru_cache partial reduce",
    "math": "ceil comb factorial floor gcd inf isqrt lcm log log10 log2 pi prod sqrt",
    "copy": "deepcopy",
    "fractions": "Fraction",
    "decimal": "Decimal",
    "dataclasses": "dataclass field",
    "enum": "Enum",
}
_MODULES = (
    "bisect collections copy datetime decimal fractions functools heapq itertools json math operator os random re"
    " statistics string sys time typing"
)


class _Numpy:
    """Finds numpy, the only package beside the standard library."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name != "numpy":
            return None
        make: Any = importlib.import_module("importlib.util").spec_from_file_location
        return make(name, f"{self._folder}/__init__.py", submodule_search_locations=[self._folder])


def prepare(numpy: str) -> None:
    """Makes up for what the interpreter lacks without `site`, and makes numpy importable from the folder `numpy`."""
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    sys.set_int_max_str_digits(0)
    sys.argv = [PROGRAM_FILE]
    sys.meta_path.append(_Numpy(numpy))


def provided(code: CodeType) -> dict[str, Any]:
    """The values of `_PROVIDED` and `_MODULES` that `code` may mean."""
    used: set[str] = set()
    codes = [code]
    while codes:
        code = codes.pop()
        used.update(code.co_names)
        codes += [constant for constant in code.co_consts if hasattr(constant, "co_names")]
    found: dict[str, Any] = {name: importlib.import_module(name) for name in used.intersection(_MODULES.split())}
    for module, names in _PROVIDED.items():
        found |= {name: getattr(importlib.import_module(module), name) for name in used.intersection(names.split())}
    if "np" in used:
        found["np"] = importlib.import_module("numpy")
    return found


def execute(name: str) -> dict[str, Any]:
    """Runs the program as the module `name`; returns its names. Raises whatever the program raises."""
    with open(PROGRAM_FILE, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123 - pathlib is slow
        code = compile(file.read(), PROGRAM_FILE, "exec")
    module = sys.modules[name] = type(sys)(name)
    module.__dict__.update(provided(code), __builtins__=builtins, __file__=PROGRAM_FILE)
    exec(code, module.__dict__)
    return module.__dict__


def run_script(numpy: str) -> None:
    prepare(numpy)
    execute("__main__")
