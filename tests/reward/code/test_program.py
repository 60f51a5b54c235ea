"""Where the program stands in a response, as models write it."""

from __future__ import annotations

import time

import pytest

from maspo_dist.reward.code.program import read_program

CODE = "a = input()\nprint(a)"
PYTHON = f"```python\n{CODE}\n```"


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("```\na\n```\nthen\n```py\nb\n```", "b\n"),
        ("<think>```python\na\n```</think>```python\nb\n```", "b\n"),
        ("print(1)", "print(1)"),
        ("<answer>\nprint(1)\n</answer>", "\nprint(1)\n"),
        ("I cannot (really) do it.", None),
        ("42", None),
        ("```python\n\n```", None),
        ("```cpp\nint main() {}\n```", None),
        ("", None),
        # Other blocks around the program.
        (f"{PYTHON}\nFor example\n```\n1 2\n3\n```", CODE),
        (f"{PYTHON}\n```bash\necho 1 | python3 a.py\n```", CODE),
        (f"```bash\npip install numpy\n```\nthen\n{PYTHON}", CODE),
        (f"```text\n1\n```\n```\n{CODE}\n```\nprints\n```\n3\n```", CODE),
        (f"```\n{CODE}\n```\n```output\n3\n```", CODE),
        (f"{PYTHON}\n```python\n>>> f(1)\n3\n```", CODE),
        (f"{PYTHON}\n```python\n# input: 1\n# output: 1\n```", CODE),
        (f"{PYTHON}\n```python\nprint(0)\n```", "print(0)"),
        (f"{PYTHON}\n```python\nprint(0\n```", "print(0"),
        # Other ways to write its fence.
        (f"~~~python\n{CODE}\n~~~", CODE),
        (f"````python\n{CODE}\n````", CODE),
        (f"``` Python3\r\n{CODE}\r\n```\r\n".replace("\n", "\r\n"), CODE),
        (f"```{{.python}}\n{CODE}\n```", CODE),
        (f'```python title="a.py"\n{CODE}\n```', CODE),
        (f"Here it is: ```python\n{CODE}\n```", CODE),
        (f"```python\n{CODE}```", CODE),
        (f"```python\n{CODE}", CODE),
        (f"```python\n{CODE}\n```<|im_end|>", CODE),
        ("1. Code:\n   ```python\n   if 1:\n       print(1)\n   ```\n", "if 1:\n    print(1)\n"),
        (f"> ```python\n> {CODE}\n> ```\n".replace("\np", "\n> p"), CODE),
        (
            '```python\ndef f():\n    """\n    ```\n    f()\n    ```\n    """\n```',
            'def f():\n    """\n    ```\n    f()\n    ```\n    """',
        ),
        ("- Code:\n\n\t```python\n\tprint(1)\n\t```\nEnd.", "print(1)"),
        ("```python\ns = '``'  # not `the` end\nprint(s)\n```", "s = '``'  # not `the` end\nprint(s)\n"),
    ],
)
def test_the_program_is_the_last_block_that_is_a_program(response: str, program: str | None) -> None:
    found = read_program(response)

    assert (found and found.strip()) == (program and program.strip())


def test_a_program_in_a_reasoning_block_of_configured_tags_is_no_answer() -> None:
    response = f"<plan>```python\n{CODE}\n```"

    assert read_program(response) is not None
    assert read_program(response, {"<plan>": "</plan>"}) is None


@pytest.mark.parametrize("bait", ["```", "`", "```x", "~~~", "```python\n", "``` `\n", "{.", "\n"])
def test_reading_takes_linear_time(bait: str) -> None:
    started = time.process_time()
    read_program(bait * (600_000 // len(bait)) + "x`")

    assert time.process_time() - started < 3
