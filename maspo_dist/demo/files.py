"""Makes the demo's folder unless it exists."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from maspo_dist.demo.calculator import CalculatorRecipe, CalculatorStart, calculator_warm_start
from maspo_dist.demo.model import make_model, make_tokenizer
from maspo_dist.demo.route import OPENING, RouteRecipe, RouteStart, route_warm_start
from maspo_dist.demo.task import SOURCE, draw_problems
from maspo_dist.demo.warm_start import WarmStart, warm_start
from maspo_dist.models.folder import save_model_folder, whole_folder

DEFAULT_FOLDER = Path(".cache/demo")

#: Increase this number when a change of the code changes the files of a recipe.
_REVISION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRecipe:
    """Everything besides the seed that determines the demo."""

    train_problems: int = 6_000
    heldout_problems: int = 512
    #: Lengths of the shortest and the longest summands.
    digits: tuple[int, int] = (2, 3)
    warm_start: WarmStart = field(default_factory=WarmStart)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFiles:
    """A demo on disk: a Hugging Face model folder, two JSONL files, and the accuracy before training."""

    model: Path
    train: Path
    heldout: Path
    #: Greedy accuracy of the model on the held-out problems.
    start_accuracy: float
    #: Of the task with two routes, and of the task with a calculator; None for the others.
    route_start: RouteStart | None = None
    calculator_start: CalculatorStart | None = None


Recipe = DemoRecipe | RouteRecipe | CalculatorRecipe
#: Starts of the names of folders.
_PREFIXES: dict[type[Recipe], str] = {DemoRecipe: "", RouteRecipe: "route-", CalculatorRecipe: "calculator-"}


def make_demo(folder: Path = DEFAULT_FOLDER, seed: int = 0, recipe: Recipe | None = None) -> DemoFiles:
    """Returns the demo of `seed`; makes it unless it exists.

    It is in `folder/seed-<seed>`, in `folder/route-seed-<seed>` for a RouteRecipe, or in
    `folder/calculator-seed-<seed>` for a CalculatorRecipe. A folder of another recipe is replaced.

    The folder appears whole or not at all. Raises ModelError when the warm start does not end.
    """
    recipe = recipe or DemoRecipe()
    target = folder / f"{_PREFIXES[type(recipe)]}seed-{seed}"
    content = json.dumps({"revision": _REVISION, "seed": seed, "recipe": asdict(recipe)}, sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    if (made := _read(target, key)) is not None:
        return made
    try:
        with whole_folder(target) as draft:
            _write(draft, recipe, seed, key)
            if _read(target, key) is None:
                shutil.rmtree(target, ignore_errors=True)
    except OSError:
        # Another process can have made it first.
        if _read(target, key) is None:
            raise
    return make_demo(folder, seed, recipe)


def _write(draft: Path, recipe: Recipe, seed: int, key: str) -> None:
    rng = np.random.default_rng(seed)
    train, heldout = draw_problems(recipe.train_problems, recipe.heldout_problems, recipe.digits, rng)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, seed)
    more: dict[str, object] = {}
    if isinstance(recipe, RouteRecipe):
        start = route_warm_start(model, tokenizer, train, heldout, recipe, rng)
        # The share of the rare route is that of the responses that start with this text.
        accuracy, more = start.greedy_accuracy, {"rare_opening": OPENING, "start": asdict(start)}
    elif isinstance(recipe, CalculatorRecipe):
        calculator = calculator_warm_start(model, tokenizer, train, heldout, recipe, rng)
        accuracy, more = calculator.greedy_accuracy, {"calculator_start": asdict(calculator)}
    else:
        accuracy = warm_start(model, tokenizer, train, heldout, recipe.warm_start, rng)
    save_model_folder(draft / "model", model, tokenizer)
    for split, problems in (("train", train), ("heldout", heldout)):
        rows = [
            {"id": f"{split}-{i}", "problem": problem.problem, "answer": problem.answer, "source": SOURCE}
            for i, problem in enumerate(problems)
        ]
        (draft / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    manifest = {"key": key, "seed": seed, "start_accuracy": accuracy, "recipe": asdict(recipe)} | more
    (draft / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _read(target: Path, key: str) -> DemoFiles | None:
    """The demo in `target`, or None if no demo with this key is there."""
    path = target / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if manifest.get("key") != key:
        return None
    train, heldout = target / "train.jsonl", target / "heldout.jsonl"
    return DemoFiles(
        model=target / "model",
        train=train,
        heldout=heldout,
        start_accuracy=manifest["start_accuracy"],
        route_start=RouteStart(**manifest["start"]) if "start" in manifest else None,
        calculator_start=CalculatorStart(**manifest["calculator_start"]) if "calculator_start" in manifest else None,
    )
