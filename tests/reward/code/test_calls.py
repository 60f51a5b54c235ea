"""Programs that tests call by name, and programs as models write them: judged by what they do."""

from __future__ import annotations

import json

import pytest

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.reward.code.verifier import CodeVerifier
from maspo_dist.reward.sample import Sample, score_safely
from maspo_dist.types import Verdict

VERIFIER = CodeVerifier(VerifierConfig(timeout_s=60, memory_mb=1024))
SUM = json.dumps({"inputs": ["1 2"], "outputs": ["3\n"]})
ADD = "def add(a, b):\n    return a + b\n"


def judge(program: str, reference: object) -> Verdict:
    text = reference if isinstance(reference, str) else json.dumps(reference)
    return score_safely(VERIFIER.score, Sample(response=f"```python\n{program}\n```", reference=text))[0]


def calls(*pairs: tuple[object, object], name: str = "f") -> dict[str, object]:
    return {"fn_name": name, "inputs": [given for given, _ in pairs], "outputs": [wanted for _, wanted in pairs]}


@pytest.mark.parametrize(
    ("program", "reference"),
    [
        (ADD, calls(([1, 2], 3), (["a", "b"], "ab"), name="add")),
        (ADD, calls(("1\n2", "3"), ('"a"\n"b"', '"ab"'), name="add")),
        (ADD, {"fn_name": "add", "inputs": ["a = 1, b = 2"], "outputs": ["3"]}),
        ("class Solution:\n    def f(self, xs: List[int]) -> int:\n        return sum(xs)", calls(([[1, 2]], 3))),
        # A fresh object for each call.
        ("class Solution:\n  n = []\n  def __init__(self): self.n = []\n"
         "  def f(self, x):\n    self.n.append(x)\n    return self.n", calls(([1], [1]), ([2], [2]))),
        ("def f(x): return x / 3", calls(([1], 0.3333333333))),
        ("def f(x): return (x, (x, 2))", calls(([1], [1, [1, 2]]))),
        ("def f(x): return None", calls(([1], None))),
        ("def f(x): x.sort()", calls(([[2, 1]], [1, 2]))),
        ("def f(x): return {x: 1}", calls(([5], {"5": 1}))),
        ("def f(x): return Counter(x)", calls((["aab"], {"a": 2, "b": 1}))),
        ("def f(x): return deque(x)", calls(([[1, 2]], [1, 2]))),
        ("def f(x): return (y for y in x)", calls(([[1, 2]], [1, 2]))),
        ("import numpy as np\ndef f(x): return np.array(x).sum()", calls(([[1, 2]], 3))),
        ("import numpy as np\ndef f(x): return [np.float64(1.5), np.arange(x)]", calls(([2], [1.5, [0, 1]]))),
        ("def f(x): return x\nif __name__ == '__main__':\n    print(f(int(input())))", calls(([1], 1))),
        ("def f(x): return x\nexit()", calls(([1], 1))),
    ],
)  # fmt: skip
def test_a_program_called_by_name_is_correct(program: str, reference: object) -> None:
    verdict = judge(program, reference)

    assert (verdict.status, verdict.reason) == ("correct", "")


@pytest.mark.parametrize(
    ("program", "reference", "reason"),
    [
        (ADD, calls(([1, 2], 3), ([1, 2], 4), name="add"), "case 2 of 2: other result: 3"),
        ("def f(x): return '1'", calls(([1], 1)), "case 1 of 1: other result: '1'"),
        ("def f(x): return [x, x]", calls(([1], [1])), "case 1 of 1: other result: [1, 1]"),
        ("def g(x): return x", calls(([1], 1)), "case 1 of 1: NameError: the program defines no f"),
        ("def f(x):\n    return x / 0", calls(([1], 1)), "ZeroDivisionError: division by zero (line 2 of the program)"),
        ("def f(x):\n  return 1 +", calls(([1], 1)), "SyntaxError: invalid syntax (main.py, line 2) (line 2"),
        ("def f(x): return x\n\nf(y)", calls(([1], 1)), "NameError: name 'y' is not defined (line 3 of the program)"),
        ("class E:\n  def __eq__(self, o): return True\ndef f(x): return E()", calls(([1], 1)), "other result: "),
        ("class E(float):\n  def __eq__(self, o): return True\ndef f(x): return E(7)", calls(([1], 1)), "result: 7.0"),
        ("class E:\n  def __iter__(self): return iter([7])\n  def __eq__(self, o): return True\ndef f(x): return E()",
         calls(([1], [1])), "other result: [7]"),
    ],
)  # fmt: skip
def test_a_wrong_result_says_which_call_and_why(program: str, reference: object, reason: str) -> None:
    verdict = judge(program, reference)

    assert verdict.status == "wrong"
    assert reason in verdict.reason


PYTEST_STYLE = (
    "from solution import add\n\ndef test_add():\n    assert add(1, 2) == 3\n\ndef test_more():\n    assert {}\n"
)
RAISES = (
    "import pytest\nfrom solution import f\n\n@pytest.mark.parametrize('x, y', [(1, 2), (3, 4)])\n"
    "def test_f(x, y):\n    assert f(x) == pytest.approx(y)\n\ndef test_negative():\n"
    "    with pytest.raises(ValueError, match='^neg') as caught:\n        f(-1)\n"
    "    assert str(caught.value) == 'negative' and caught.value.args == ('negative',)"
)
CLASS = "class TestF:\n    def setup_method(self): self.x = 1\n    def test_f(self): assert f(self.x) == {}"
UNITTEST_STYLE = (
    "import unittest\nclass TestAdd(unittest.TestCase):\n    def test(self):\n        self.assertEqual(add(1, 2), {})"
)


@pytest.mark.parametrize(
    ("program", "tests", "status"),
    [
        (ADD, PYTEST_STYLE.format("add(2, 2) == 4"), "correct"),
        (ADD, PYTEST_STYLE.format("add(2, 2) == 5"), "wrong"),
        (ADD, PYTEST_STYLE.replace("import add", "import subtract").format("1"), "wrong"),
        ("def f(x):\n  if x < 0: raise ValueError('negative')\n  return x + 1.0", RAISES, "correct"),
        ("def f(x): return x + 1.0", RAISES, "wrong"),
        ("def f(x):\n  if x < 0: raise ValueError('negative')\n  return x + 2.0", RAISES, "wrong"),
        ("def f(x): return x", CLASS.format(1), "correct"),
        ("def f(x): return x", CLASS.format(2), "wrong"),
        ("def f(x): return x", "import pytest\n@pytest.fixture\ndef x(): pass\ndef test_f(x): assert f(x)", "error"),
        ("def f(x): return x", "def test_f(tmp_path): assert f(1)", "error"),
        (ADD, UNITTEST_STYLE.format(3), "correct"),
        (ADD, UNITTEST_STYLE.format(4), "wrong"),
        (ADD, "import numpy as np\nassert np.isclose(add(0.1, 0.2), 0.3)", "correct"),
        (ADD, "import pandas as pd\nassert pd.Series([add(1, 2)])[0] == 3", "error"),
        (ADD, "assert add(sum, sum)", "error"),
        ("def f(xs): return Counter(xs)", "assert f('aab') == {'a': 2, 'b': 1}\nassert f('aab')['a'] == 2", "correct"),
        ("def f(xs): return Counter(xs)", "assert f('aab').most_common(1) == [('a', 2)]", "correct"),
        ("def f(xs): return deque(xs, 2)", "assert list(f('abc')) == ['b', 'c'] and len(f('abc')) == 2", "correct"),
        ("def f(): return Fraction(1, 3)", "from fractions import Fraction\nassert f() == Fraction(1, 3)", "correct"),
        ("import numpy as np\ndef mean(xs): return np.mean(xs)", "assert abs(mean([1, 2]) - 1.5) < 1e-9", "correct"),
        ("def order(xs): xs.sort()", "xs = [2, 1]\norder(xs)\nassert xs == [1, 2]", "correct"),
        ("def f(d, s): d['a'] = 1; s.add(2)", "d, s = {}, {1}\nf(d, s)\nassert d == {'a': 1} and 2 in s", "correct"),
        ("@dataclass\nclass P:\n  x: int = 0", "assert P(1) == P(1) and P(1) != P(2) and P(3).x == 3", "correct"),
        ("class Bad(ValueError): pass\ndef f(): raise Bad('no')",
         "try:\n  f()\nexcept ValueError:\n  pass\nelse:\n  assert 0", "correct"),
        ("def f(): return math.isqrt(9)", "assert f() == 3", "correct"),
        ("def f(): return 3", "assert f() == math.isqrt(9)", "correct"),
    ],
)  # fmt: skip
def test_tests_in_python_call_the_program(program: str, tests: str, status: str) -> None:
    verdict = judge(program, tests)

    assert verdict.status == status, verdict.reason


LIST_NODE = "class Node:\n  def __init__(self, val=0, next=None): self.val, self.next = val, next\n"
STACK = (
    "class Stack:\n  def __init__(self): self._data = []\n  def push(self, x): self._data.append(x)\n"
    "  def __len__(self): return len(self._data)\n  def __getitem__(self, i): return self._data[i]\n"
    "  def __setitem__(self, i, x): self._data[i] = x\n  def __repr__(self): return f'Stack({self._data})'\n"
)
VECTOR = (
    "class V:\n  def __init__(self, x): self.x = x\n  def __add__(self, o): return V(self.x + o.x)\n"
    "  def __mul__(self, n): return V(self.x * n)\n  def __neg__(self): return V(-self.x)\n"
    "  def __eq__(self, o): return self.x == o.x\n  def __hash__(self): return hash(self.x)\n"
    "  def __lt__(self, o): return self.x < o.x\n  def __float__(self): return self.x + 0.5\n"
)
SINGLE = "class S:\n  one = None\n  def __new__(cls):\n    S.one = S.one or object.__new__(cls)\n    return S.one\n"
OWN_ERROR = (
    "class Bad(Exception):\n  def __init__(self, code): self.code = code\n"
    "  def __str__(self): return f'<{self.code}>'\ndef f(): raise Bad(5)\ndef g(): return h\n"
)
MANAGER = "import contextlib\n@contextlib.contextmanager\ndef f():\n  yield 1\n"
NATURALS = "def f():\n  n = 0\n  while True:\n    yield n\n    n += 1\n"


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        (LIST_NODE, "a = c = Node(1)\nfor x in (2, 3):\n  c.next = Node(x)\n  c = c.next\nassert a.next.next.val == 3"),
        (LIST_NODE, "a = Node(1)\ndel a.val\nassert not hasattr(a, 'val')"),
        (STACK, "s = Stack()\nassert not s\ns.push(1)\nassert s and len(s) == 1 and isinstance(s, Stack)"),
        (STACK, "s = Stack()\ns.push(1)\ns[0] = 2\nassert repr(s) == 'Stack([2])' and s[0] == 2 and s._data[:] == [2]"),
        (VECTOR, "a = V(1)\na += V(2)\nassert a == V(3) and V(1) < V(2) and -V(1) == V(-1)\n"
         "assert sorted([a, V(2)])[1] is a"),
        (VECTOR, "assert {V(1), V(1)} == {V(1)} and float(V(1)) == 1.5"),
        (SINGLE, "assert S() is S()"),
        (MANAGER, "with f() as x:\n  assert x == 1"),
        (NATURALS, "g = f()\nassert next(g) == 0 and next(g) == 1\nassert [n for n, _ in zip(g, range(2))] == [2, 3]"),
        ("class C(Enum):\n  A = 1\ndef f(): return C.A", "assert f() == C.A and f() is C.A and f().value == 1"),
        ("def f(d): return d + datetime.timedelta(1)",
         "import datetime\nassert f(datetime.date(2020, 2, 28)) == datetime.date(2020, 2, 29)"),
        ("def f(): return np.array([1, 2])",
         "import numpy as np\nassert (f() == np.array([1, 2])).all() and (f() - np.ones(2)).sum() == 1\n"
         "assert f()[1:] == [2]"),
        (OWN_ERROR, "import pytest\nwith pytest.raises(Bad, match='<5>') as e: f()\nassert e.value.code == 5"),
    ],
)  # fmt: skip
def test_tests_use_the_programs_own_objects_as_python_does(program: str, tests: str) -> None:
    verdict = judge(program, tests)

    assert (verdict.status, verdict.reason) == ("correct", "")


@pytest.mark.parametrize(
    ("program", "tests", "status"),
    [
        (VECTOR, "assert V(1) + V(2) == V(4)", "wrong"),
        (STACK, "s = Stack()\ns.push(1)\nassert len(s) == 2", "wrong"),
        (STACK, "s = Stack()\nassert s < Stack()", "wrong"),
        ("def f(): return len", "assert abs(f() - 3.5) < 1e-6", "wrong"),
        (MANAGER, "with f() as x:\n  assert x == 2", "wrong"),
        (OWN_ERROR, "import pytest\nwith pytest.raises(Bad): g()", "wrong"),
        # Whether these pass cannot be said: a value of the tests would enter the program, or Python wants a class.
        (VECTOR, "assert V(1) * 2 == V(2)", "error"),
        (MANAGER, "with f() as x:\n  raise KeyError(x)", "error"),
        (OWN_ERROR, "try:\n  f()\nexcept Bad:\n  pass", "error"),
        (VECTOR, "class W(V): pass\nassert W(1).x == 1", "error"),
        (VECTOR, "import copy\nassert copy.deepcopy(V(1)).x == 1", "error"),
        (VECTOR, "try:\n  V(1) * 2\nexcept Exception:\n  pass", "error"),
    ],
)
def test_objects_of_the_program_are_judged_wrong_only_where_python_would(program: str, tests: str, status: str) -> None:
    verdict = judge(program, tests)

    assert verdict.status == status, verdict.reason


IN_TEST = "import pytest\ndef test_f():\n    assert f({}) == {}"
SET_UPS = (
    "log = []\ndef setup_module(module): log.append('module')\ndef setup_function(function): log.append('function')\n"
    "def teardown_function(): log.append('end')\ndef test_f(): assert log == ['module', 'function']\n"
    "class TestF:\n    @classmethod\n    def setup_class(cls): cls.x = 1\n"
    "    def setup_method(self, method): self.y = f(2)\n"
    "    def test_f(self): assert (self.x, self.y) == (1, {}) and log[-1] == 'end'\n"
)


@pytest.mark.parametrize(
    ("tests", "status"),
    [
        ("import pytest\n@pytest.mark.slow\n@pytest.mark.timeout(5)\ndef test_f(): assert f(1) == {}", "correct"),
        ("import pytest\n@pytest.mark.parametrize(('x',), [(1,), [2]], ids=['a', 'b'])\n"
         "def test_f(x): assert f(x) - x == {} - 1", "correct"),
        (IN_TEST.format("1.0", "pytest.approx({} + 1e-9, rel=1e-6, nan_ok=True)"), "correct"),
        (IN_TEST.format("{'a': [1, 2]}", "pytest.approx({{'a': [1, 1 + {}]}})"), "correct"),
        (IN_TEST.format("1 + 2j", "pytest.approx({} + 2j)"), "correct"),
        (IN_TEST.format("1000", "pytest.approx(999 + {} + 0.01, abs=0.1)"), "correct"),
        ("import pytest\ndef test_f():\n    pytest.raises(TypeError, f, *[1] * (4 - {}))", "correct"),
        ("import pytest\ndef test_f():\n    with pytest.raises(expected_exception=TypeError) as e: f()\n"
         "    assert e.type is TypeError and f(1) == {}", "correct"),
        (SET_UPS.replace("{}", "1 + {}"), "correct"),
        ("import unittest\nclass Add(unittest.TestCase):\n    def test(self): self.assertEqual(f(1), {})\n"
         "unittest.main()", "correct"),
        ("import sys\ndef test_f(): assert f(1) == {}\nsys.exit(0)", "correct"),
        ("async def test_f(): assert f(1) == {}", "error"),
        ("import asyncio\nasync def test_f(): assert f(1) == {}\n"
         "class TestF:\n    async def test_f(self): assert f(1) == {}", "error"),
        ("import pytest\n@pytest.mark.skip\ndef test_f(): assert f(1) == {}", "error"),
        ("import pytest\n@pytest.mark.parametrize('x', [1])\nclass TestF:\n    def test_f(self, x): assert f(x) == {}",
         "error"),
        ("import pytest\n@pytest.mark.parametrize('x', [1])\ndef test_f(x, capsys): assert f(x) == {}", "error"),
        ("import pytest\n@pytest.mark.parametrize('x, y', [1])\ndef test_f(x, y): assert f(x) == {}", "error"),
        ("class TestF:\n    def test_f(self, tmp_path): assert f(1) == {}", "error"),
    ],
)  # fmt: skip
def test_tests_run_as_under_pytest_or_are_an_error(tests: str, status: str) -> None:
    right, wrong = (tests.replace("{}", value).replace("{{", "{").replace("}}", "}") for value in ("1", "3"))

    assert judge("def f(x): return x", right).status == status, judge("def f(x): return x", right).reason
    assert judge("def f(x): return x", wrong).status == ("wrong" if status == "correct" else status)


def test_tests_that_cannot_run_say_what_they_lack() -> None:
    verdict = judge(ADD, "import pandas\nassert add(1, 2) == 3")

    assert (verdict.status, verdict.reason) == ("error", "the tests cannot run: No module named 'pandas'")


@pytest.mark.parametrize(
    "program",
    [
        "a, b = map(int, input().split())\nprint(a + b)\nexit()",
        "a, b = map(int, input().split())\nprint(a + b)\nquit(0)",
        "import sys\nprint(sum(map(int, sys.stdin.readline()[:-1].split())))\nsys.exit()",
        "import numpy as np\nprint(np.array(input().split(), int).sum())",
        "xs = list(map(int, input().split()))\nprint(reduce(lambda a, b: a + b, xs))",
        "import threading\nthreading.stack_size(2**27)\n"
        "t = threading.Thread(target=lambda: print(sum(map(int, input().split()))))\nt.start()\nt.join()",
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
        "print(P(sum(map(int, input().split()))).x)",
        "def main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()",
        "print(3.0)",
    ],
)
def test_programs_as_models_write_them_are_judged_by_what_they_do(program: str) -> None:
    verdict = judge(program, SUM)

    assert (verdict.status, verdict.reason) == ("correct", "")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("a = input()\n\nprint(b)", "exit code 1 in line 3: NameError: name 'b' is not defined"),
        ("def f():\n    raise ValueError('no')\nf()", "exit code 1 in line 2: ValueError: no"),
        ("print(1\n", "in line 1: SyntaxError: '(' was never closed"),
        ("import sys\nsys.exit('no idea')", "exit code 1: no idea"),
        ("import pandas", "exit code 1 in line 1: ModuleNotFoundError: No module named 'pandas'"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_the_reason_quotes_the_last_line_of_stderr_and_the_programs_own_line(program: str, reason: str) -> None:
    verdict = judge(program, SUM)

    assert (verdict.status, verdict.reason) == ("wrong", f"case 1 of 1: {reason}") or reason in verdict.reason


def test_any_of_several_outputs_is_right() -> None:
    reference = '[{"input": "6", "outputs": ["2 3", "3 2"]}]'

    assert judge("print('3 2')", reference).status == "correct"
    assert judge("print('3 3')", reference).status == "wrong"


@pytest.mark.parametrize(
    "reference", ["12", "", '{"inputs": ["1"]}', '{"fn_name": "f", "inputs": ["{"], "outputs": ["1"]}']
)
def test_a_reference_that_cannot_be_read_is_an_error(reference: str) -> None:
    verdict = judge(ADD, reference)

    assert (verdict.status, verdict.verifiable) == ("error", False)
    assert verdict.reason.startswith("ValueError: ")
