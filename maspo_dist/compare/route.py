"""The share of responses that take the rare route, where the folder of the model names it.

A demo with a rare route says in its manifest.json, beside the model's folder, with which text the route opens. The
share is over the responses of samples.jsonl, so that `logging.sample_groups` sets its precision.
"""

import json
from collections import Counter
from pathlib import Path

from maspo_dist.runs.folder import RunFolder

#: Name of the curve.
ROUTE_SHARE = "route/share"

_MANIFEST = "manifest.json"
_OPENING = "rare_opening"


def route_opening(model_path: str) -> str | None:
    """The text that opens the rare route of the model's task; None for a model that is no such demo."""
    try:
        manifest = json.loads((Path(model_path).parent / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    opening = manifest.get(_OPENING) if isinstance(manifest, dict) else None
    return opening if isinstance(opening, str) and opening else None


def route_share(model_path: str, folder: RunFolder) -> tuple[tuple[int, float], ...]:
    """(step, share of the step's sampled responses on the rare route); empty where no route is known."""
    opening = route_opening(model_path)
    if opening is None:
        return ()
    responses, taken = Counter[int](), Counter[int]()
    for row in folder.read_samples():
        responses[row["step"]] += 1
        taken[row["step"]] += row["response"].startswith(opening)
    return tuple((step, taken[step] / responses[step]) for step in sorted(responses))
