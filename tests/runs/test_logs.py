"""Log lines name the process that wrote them; the output of libraries goes to the file only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import logging, os, sys
from pathlib import Path
from maspo_dist.runs.logs import configure_logging, redirect_output

logs = Path(sys.argv[1])
chatter = logging.getLogger("vllm")


configure_logging("learner-1", logs, sys.stderr)
configure_logging("learner-1", logs, sys.stderr)
ours = logging.getLogger("maspo_dist.algorithm")
ours.info("ready")
ours.warning("gradient norm is 40")
chatter.warning("some chatter")
redirect_output(logs / "learner-1.out")
print("python print", flush=True)
os.write(2, b"from C\\n")
"""


def test_log_lines_name_the_process_and_output_of_libraries_goes_to_the_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout == ""
    assert done.stderr == "WARNING learner-1: gradient norm is 40\n"
    lines = [line.split(" ", 2)[2] for line in (tmp_path / "learner-1.log").read_text().splitlines()]
    assert lines == [
        "INFO learner-1 maspo_dist.algorithm: ready",
        "WARNING learner-1 maspo_dist.algorithm: gradient norm is 40",
        "WARNING learner-1 vllm: some chatter",
    ]
    assert (tmp_path / "learner-1.out").read_text() == "python print\nfrom C\n"
