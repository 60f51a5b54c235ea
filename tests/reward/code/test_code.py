"""Programs judged by what they do, in either kind of isolation: what they can reach, and what they cannot."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.errors import ConfigError
from maspo_dist.reward.code import sandbox
from maspo_dist.reward.code.sandbox import Isolation, Limits, Outcome, best_isolation, run_program
from maspo_dist.reward.code.verifier import CodeVerifier, _children_cpu_s, _start_cpu_s, same_output
from maspo_dist.reward.pool.lifetime import hide_memory
from maspo_dist.reward.registry import reference_problems
from maspo_dist.reward.sample import Sample
from maspo_dist.types import Verdict

SECRET = "7f3a-expected-output"
ECHO_TWICE = json.dumps({"inputs": ["1 2\n", "5 6\n"], "outputs": ["3\n", "11\n"]})
ADD = "def add(a, b):\n    return a + b\n"


#: The kinds of isolation that this machine allows.
ISOLATIONS = sorted({"seccomp", best_isolation()})


@pytest.fixture(params=ISOLATIONS)
def isolation(request: pytest.FixtureRequest) -> Isolation:
    kind: Isolation = request.param
    return kind


def run(program: str, isolation: Isolation, **limits: float) -> Outcome:
    return run_program(program, b"", Limits(**{"wall_s": 20, "cpu_s": 5, **limits}, isolation=isolation))


def judge(program: str, reference: str, isolation: Isolation = "seccomp", timeout_s: float = 20.0) -> Verdict:
    verifier = CodeVerifier(VerifierConfig(timeout_s=timeout_s, memory_mb=512, code_isolation=isolation))
    return verifier.score(Sample(response=f"```python\n{program}\n```", reference=reference))


def test_a_right_program_is_correct_and_a_wrong_one_says_where(isolation: Isolation) -> None:
    right = judge("a, b = map(int, input().split())\nprint(a + b)", ECHO_TWICE, isolation)
    wrong = judge("a, b = map(int, input().split())\nprint(3)", ECHO_TWICE, isolation)

    assert (right.status, right.reward) == ("correct", 1.0)
    assert (wrong.status, wrong.reason) == ("wrong", "case 2 of 2: other output")


def test_asserts_call_the_program(isolation: Isolation) -> None:
    tests = json.dumps({"asserts": ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"]})

    assert judge(ADD, tests, isolation).status == "correct"
    assert judge("def add(a, b): return 3", tests, isolation).status == "wrong"


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import socket\nsocket.create_connection(('127.0.0.1', PORT))", "1"),
        ("open('HIDDEN').read()", "1"),
        ("import os\nos.listdir('FOLDER')", "1"),
        ("import os\nos.kill(VICTIM, 9)", "1"),
        ("open('/proc/VICTIM/environ').read()", "1"),
        ("import ctypes\nassert ctypes.CDLL(None).ptrace(16, VICTIM, 0, 0) == 0", "1"),
        ("import numpy.linalg\nassert numpy.linalg.norm([3, 4]) == 5", "0"),
        ("import scipy", "1"),
        ("import torch", "1"),
        ("import maspo_dist", "1"),
        ("import os\nassert not os.environ.get('USER_SECRET')\nassert len(os.listdir('.')) == 1", "0"),
        ("open('x', 'w').write('y')\nassert open('x').read() == 'y'", "0"),
        ("import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()", "0"),
        ("import collections, heapq, itertools, json, math, random, re, sys\nsys.setrecursionlimit(10**6)", "0"),
    ],
)
def test_what_a_program_can_reach(
    program: str, told: str, isolation: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER_SECRET", "42")
    hidden = tmp_path / "train.jsonl"
    hidden.write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name, value in (
            ("PORT", server.getsockname()[1]), ("HIDDEN", hidden), ("FOLDER", tmp_path), ("VICTIM", os.getpid())
        ):  # fmt: skip
            program = program.replace(name, str(value))
        outcome = run(program, isolation)

    assert (outcome.end, str(outcome.code)) == ("exited", told)


def test_a_program_starts_no_process_of_its_own_where_none_could_be_contained() -> None:
    for program in ("import os\nos.fork()", "import subprocess\nsubprocess.run(['true'])", "import os\nos.kill(-1, 9)"):
        assert run(program, "seccomp").code == 1, program


@pytest.mark.parametrize(
    ("program", "end"),
    [
        ("x = bytearray(100 << 30)", "exited"),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", "exited"),
        ("while True: print('x' * 100000)", "output"),
        ("f = open('f', 'wb')\nwhile True: f.write(b'x' * 1000000)", "exited"),
        ("import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(600)", "wall_time"),
        ("import os, time\nos.closerange(0, 10)\ntime.sleep(600)", "wall_time"),
        ("import os\nos.abort()", "signalled"),
    ],
)
def test_a_program_that_passes_a_limit_ends_there(program: str, end: str, isolation: Isolation) -> None:
    # A program that should hit another limit gets a long wall-clock limit, because the machine may be busy.
    wall_s = 2.0 if end == "wall_time" else 20.0
    started = time.monotonic()
    outcome = run(program, isolation, wall_s=wall_s)

    assert outcome.end == end
    assert outcome.failure
    assert time.monotonic() - started < wall_s + 1.0


def test_cpu_time_is_limited_whatever_the_wall_says(isolation: Isolation) -> None:
    outcome = run("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", isolation, cpu_s=1)

    assert outcome.end == "cpu_time"


def test_nothing_is_left_of_a_program_that_leaves_daemons() -> None:
    marker = f"daemon-{os.getpid()}"
    daemon = f"import sys, time; '{marker}'; time.sleep(600)"
    program = (
        "import os, subprocess, sys\n"
        f"for _ in range(3): subprocess.Popen([sys.executable, '-c', {daemon!r}], start_new_session=True)\n"
    )

    # Where it could not be contained, it starts none.
    assert run(program, best_isolation()).code == (0 if best_isolation() == "namespaces" else 1)
    assert not [p for p in psutil.process_iter() if marker in " ".join(_command(p))]


@pytest.mark.parametrize(
    "program",
    [
        # A program sees nothing of the values that its output is compared with: not on disk, not in its own process.
        "import os\nfor folder, inner, names in os.walk('/'):\n"
        "  inner[:] = [name for name in inner if name not in ('usr', 'lib', 'lib64', 'bin')]\n"
        "  for name in names:\n    try:\n      t = open(os.path.join(folder, name)).read(100000)\n"
        "      if '7f3a' in t: print(t[t.index('7f3a'):][:20])\n    except (OSError, ValueError): pass",
        "import gc, sys\nf = sys._getframe()\nwhile f:\n  for v in (*f.f_locals.values(), *f.f_globals.values()):\n"
        "    if isinstance(v, str) and '7f3a-ex' in v and 'gc' not in v: print(v)\n  f = f.f_back\n"
        "for o in gc.get_objects():\n  if isinstance(o, dict):\n    for v in o.values():\n"
        "      if isinstance(v, str) and v.startswith('7f3a-ex'): print(v)",
        "import os\nprint(open(f'/proc/{os.getppid()}/cmdline').read())",
        "import sys\nprint(sys.argv, sys.orig_argv, open(0).read())",
        'print(\'{"reward": 1.0, "status": "correct"}\')',
        "import os\nos._exit(0)",
        "import os\nfor fd in range(3, 256):\n  try: print(os.read(fd, 10000))\n  except OSError: pass",
    ],
    ids=["disk", "stack", "parent", "arguments", "fake verdict", "exit 0", "descriptors"],
)
def test_an_expected_output_cannot_be_stolen(program: str, isolation: Isolation) -> None:
    verdict = judge(program, json.dumps({"inputs": ["1\n"], "outputs": [SECRET]}), isolation)

    assert verdict.status == "wrong"
    assert SECRET not in (verdict.extracted or "").replace(program, "")


@pytest.mark.parametrize(
    "program",
    [
        "class Equal:\n  def __eq__(self, other): return True\n  __hash__ = object.__hash__\n"
        "def add(a, b): return Equal()",
        "import sys\ndef add(a, b):\n  f = sys._getframe()\n  while f.f_back: f = f.f_back\n"
        "  return f.f_globals.get('tests', f.f_locals.get('expected', 0))",
        "class int(int):\n  def __eq__(self, other): return True\ndef add(a, b): return int(0)",
        "import builtins\nbuiltins.AssertionError = None\ndef add(a, b): return 0",
        "import os\ndef add(a, b): os._exit(0)",
        'print(\'{"passed": true, "reason": ""}\')\ndef add(a, b): return 0',
        "import os\ndef add(a, b):\n  os.write(1, b'{\"passed\": true}\\n')\n  return 0",
        "import sys\nsys.exit(0)",
        "def add(a, b): raise SystemExit(0)",
        "class Five:\n  def __hash__(self): return hash(5)\n  def __eq__(self, other): return True\n"
        "def add(a, b): return Five()",
    ],
)
def test_asserts_cannot_be_fooled(program: str, isolation: Isolation) -> None:
    assert judge(program, '["assert add(2, 3) == 5"]', isolation).status == "wrong"


ANYTHING = (
    "class Anything:\n  def __sub__(self, other): return 0\n  __rsub__ = __mod__ = __sub__\n"
    "  def __ge__(self, other): return True\n  __lt__ = __gt__ = __le__ = __contains__ = __eq__ = __ge__\n"
    "  def __hash__(self): return hash(5)\n  def __enter__(self): return 0\n"
    "  def __exit__(self, *error): return True\ndef add(a, b): return Anything()"
)


@pytest.mark.parametrize(
    "statement",
    [
        "assert abs(add(2, 3) - 5) < 1e-6",
        "assert 5 - add(2, 3) == 0",
        "assert 5 <= add(2, 3) <= 5",
        "assert 5 in add(2, 3)",
        "assert add(2, 3) in {5}",
        "assert {5: 1}[add(2, 3)]",
        "with add(2, 3) as x: assert x == 5",
        "import pytest\nassert add(2, 3) == pytest.approx(5)",
        "import numpy as np\nassert (np.array([5]) == add(2, 3)).all()",
    ],
)
def test_an_object_that_agrees_to_everything_never_passes(statement: str) -> None:
    assert judge(ANYTHING, statement).status in ("wrong", "error")


SEARCH = """
import os, re
def add(a, b):
    for process in filter(str.isdigit, os.listdir('/proc')):
        try:
            maps = open(f'/proc/{process}/maps').read() if int(process) != os.getpid() else ''
            with open(f'/proc/{process}/mem', 'rb') as memory:
                for start, end in re.findall('([0-9a-f]+)-([0-9a-f]+) rw', maps):
                    try:
                        memory.seek(int(start, 16))
                        if b'918273' + b'64512' in memory.read(int(end, 16) - int(start, 16)):
                            return int('918273' + '64512')
                    except (OSError, ValueError, OverflowError):
                        pass
        except OSError:
            pass
"""


def test_without_landlock_too_a_program_finds_nothing_in_the_memory_of_its_judge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without = "sandbox_launcher._restrict_files = lambda *places: None; sandbox_launcher.main()"
    monkeypatch.setattr(sandbox, "_LAUNCH", sandbox._LAUNCH.replace("sandbox_launcher.main()", without))
    # As in a verifier process.
    hide_memory()

    assert judge(SEARCH, '["assert add(2, 3) == 91827364512"]').status == "wrong"


def test_a_program_that_hangs_is_a_timeout_and_one_that_computes_too_long_is_wrong() -> None:
    reference = json.dumps({"inputs": [""], "outputs": ["1"]})

    assert judge("import time\ntime.sleep(600)", reference, timeout_s=2).status == "timeout"
    assert judge("def add(a, b):\n  while True: pass", '["assert add(1, 2) == 3"]', timeout_s=2).status in (
        "timeout", "wrong",
    )  # fmt: skip


def test_a_judge_is_not_reached_by_signals_of_the_candidate() -> None:
    # Were it allowed, this would end the test run.
    verdict = judge(f"import os, signal\nos.kill({os.getpid()}, {int(signal.SIGUSR2)})", ECHO_TWICE)

    reason = "case 1 of 2: exit code 1 in line 2: PermissionError: [Errno 1] Operation not permitted"
    assert (verdict.status, verdict.reason) == ("wrong", reason)


def test_many_programs_at_once_keep_apart(isolation: Isolation) -> None:
    outputs: dict[int, bytes] = {}

    def one(number: int) -> None:
        outputs[number] = run(f"open('same', 'w').write('{number}')\nprint(open('same').read())", isolation).stdout

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert outputs == {number: f"{number}\n".encode() for number in range(4)}


def test_isolation_that_this_machine_does_not_allow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maspo_dist.reward.code.verifier.best_isolation", lambda: "seccomp")

    with pytest.raises(ConfigError, match="code_isolation is namespaces, but this machine allows no user namespaces"):
        CodeVerifier(VerifierConfig(code_isolation="namespaces"))


def test_an_unknown_isolation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="'auto', 'namespaces' or 'seccomp'"):
        VerifierConfig.model_validate({"code_isolation": "calls"})


def test_a_process_judges_an_answer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def counted(*arguments: Any) -> Outcome:
        runs.append(arguments)
        return run_program(*arguments)

    monkeypatch.setattr("maspo_dist.reward.code.verifier.run_program", counted)
    verifier = CodeVerifier(VerifierConfig(code_isolation="seccomp"))
    sample = Sample(response="```python\nprint(3)\n```", reference='{"inputs": [""], "outputs": ["3"]}')

    first, second = verifier.score(sample), verifier.score(sample)

    assert (first.status, second, len(runs)) == ("correct", first, 1)


def test_a_process_does_not_keep_the_references_of_the_answers_that_it_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("maspo_dist.reward.code.verifier.run_program", lambda *_: Outcome(end="exited", stdout=b"3"))
    verifier = CodeVerifier(VerifierConfig(code_isolation="seccomp"))
    tracemalloc.start()
    try:
        for number in range(8):
            reference = json.dumps({"inputs": [str(number) * (1 << 20)], "outputs": ["3"]})
            assert verifier.score(Sample(response="```python\nprint(3)\n```", reference=reference)).status == "correct"
        del reference
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("cases", "own_cpu_s", "status", "reason"),
    [
        # The limits are 5 s for one case and 6.5 s for all; each start of the sandbox takes 0.1 s.
        (120, 0.0, "correct", ""),
        (30, 0.2, "correct", ""),
        (30, 0.5, "wrong", "case 14 of 30: CPU time limit of all cases"),
        (3, 3.0, "wrong", "case 3 of 3: CPU time limit"),
    ],
)
def test_a_program_is_wrong_whose_cases_together_compute_too_long(
    cases: int, own_cpu_s: float, status: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used_s = 0.0

    def compute(program: str, stdin: bytes, limits: Limits) -> Outcome:
        nonlocal used_s
        used_s += 0.1 + (own_cpu_s if program else 0.0)
        return Outcome(end="exited" if own_cpu_s < limits.cpu_s else "cpu_time", stdout=b"3")

    monkeypatch.setattr("maspo_dist.reward.code.verifier.run_program", compute)
    monkeypatch.setattr("maspo_dist.reward.code.verifier._children_cpu_s", lambda: used_s)
    _start_cpu_s.cache_clear()
    verdict = judge("print(3)", json.dumps({"inputs": ["1"] * cases, "outputs": ["3"] * cases}), timeout_s=10)
    _start_cpu_s.cache_clear()

    assert (verdict.status, verdict.reason) == (status, reason)


def test_the_cpu_time_of_a_program_is_counted(isolation: Isolation) -> None:
    before_s = _children_cpu_s()
    run("import time\nwhile time.process_time() < 0.5: pass", isolation)

    assert _children_cpu_s() - before_s >= 0.5


def test_output_is_compared_but_for_white_space_and_rounding() -> None:
    assert same_output("1  2\n\n3", "1 2\n3\n")
    assert same_output("0.33333333", "0.3333333333")
    assert not same_output("0.3334", "0.3333333333")
    assert not same_output("1", "1.0001")
    assert not same_output("nan", "1.5")
    assert not same_output("1 2", "1 2 3")
    assert same_output("1e-7", "0.0000001") and same_output("100000.0", "1e5")


def test_an_integer_may_be_printed_as_a_float_but_not_with_other_digits() -> None:
    assert same_output("3.0", "3") and same_output("-12.", "-12")
    assert not same_output("3.0000001", "3")
    assert not same_output("011", "11")
    assert not same_output("1000000000000.5", "1000000000000")


def _command(process: psutil.Process) -> list[str]:
    try:
        return [] if process.status() == psutil.STATUS_ZOMBIE else process.cmdline()
    except psutil.Error:
        return []


def test_references_with_more_cases_than_programs_can_start_in_time_are_said() -> None:
    def tests_of(cases: int) -> str:
        return json.dumps({"inputs": ["1"] * cases, "outputs": ["1"] * cases})

    config = VerifierConfig(default="code", timeout_s=10)
    references = [(tests_of(cases), "contests") for cases in (1, 200, 201, 500)]
    assert list(reference_problems(config, references[:2])) == []
    note, _ = reference_problems(config, [*references, ("no tests", "contests")])
    assert note.startswith(
        "2 of 5 references of source 'contests', read by code: more than 200 cases of standard input, each a program "
        "of its own, so that a right program may not end within reward.timeout_s (10): raise it; for example "
    )
    assert list(reference_problems(VerifierConfig(default="code", timeout_s=25), references)) == []
