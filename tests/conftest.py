"""How tests are shared out among pytest's processes, where there are several (`make test`).

Real runs go first and one after the other, in one process, which takes about as long as all the rest in another.
Elsewhere a module stays together, for its fixtures.
"""

from __future__ import annotations

from pathlib import Path

import pytest

REAL_RUNS = Path(__file__).parent / "e2e"


# First, since xdist reads the groups in this hook of its own.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.is_relative_to(REAL_RUNS))
    for item in items:
        group = REAL_RUNS if item.path.is_relative_to(REAL_RUNS) else item.path
        item.add_marker(pytest.mark.xdist_group(str(group.name)))
