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
