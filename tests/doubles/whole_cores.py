"""The command line, where each process reserves a whole core, as on GPUs: `python -m doubles.whole_cores train …`.

So a node of one core, the smallest that Ray allows, has room for one engine.
"""

from __future__ import annotations

from actors.cli import main
from maspo_dist.planning import placement

if __name__ == "__main__":
    placement.CPU_SHARE = 1.0
    main()
