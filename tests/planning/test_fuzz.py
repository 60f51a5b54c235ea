"""Whatever a user writes, `check`, `train` and `eval` prepare it, or refuse it in one sentence; 2,000 examples."""

from __future__ import annotations

import copy
import io
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from doubles.untrained_demo import save_untrained_demo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from maspo_dist.config import EvaluationConfig, ModelConfig, TrainConfig, build_config, load_config
from maspo_dist.config.keys import flatten
from maspo_dist.errors import UserError
from maspo_dist.models.facts import ModelFacts, read_model_facts
from maspo_dist.planning import check, preflight

ROOT = Path(__file__).parents[2]
ROWS = [{"problem": "1+1", "answer": "2"}, {"problem": [{"role": "user", "content": "1+2"}], "answer": 3}]
MODEL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors",
    "generation_config.json",
)

text = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["~", "~x/y", "null", "a/b", "/", ".", "..", "{problem}", "{", "math + exact", "python:a:b", "é"]),
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-2, 9), st.floats(), st.sampled_from([10**30, 0.5]), text
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=5
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A good model and good data; what is known of the good model is read once."""
    folder = tmp_path_factory.mktemp("fuzz")
    save_untrained_demo(folder / "model")
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    good = read_model_facts(ModelConfig(path=str(folder / "model")))

    def read(config: ModelConfig) -> ModelFacts:
        return good if config.path == str(folder / "model") else read_model_facts(config)

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr(preflight, "read_model_facts", read)
        for module in ("maspo_dist.models.facts", "maspo_dist.planning.check"):
            patch.setattr(f"{module}.hub_is_reachable", lambda: False)
        yield folder


@cache
def smoke() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((ROOT / "configs/local_smoke.yaml").read_text(encoding="utf-8"))
    return tree


def training(folder: Path) -> dict[str, Any]:
    tree = copy.deepcopy(smoke())
    tree["run"] |= {"dir": str(folder / "runs")}
    tree["model"] |= {"path": str(folder / "model")}
    tree["data"] |= {"train": [str(folder / "train.jsonl")], "eval": {"held": str(folder / "train.jsonl")}}
    return tree


def evaluation(folder: Path) -> dict[str, Any]:
    return {"model": {"path": str(folder / "model")}, "data": {"sets": {"held": str(folder / "train.jsonl")}}}


@cache
def every_key(folder: Path, root: type[TrainConfig] | type[EvaluationConfig]) -> list[str]:
    tree = training(folder) if root is TrainConfig else evaluation(folder)
    return [key for key, _ in flatten(build_config(root, tree).model_dump(mode="json"))]


def is_prepared_or_refused(prepare: Callable[[], object]) -> None:
    """Any other exception is a traceback that a user would see."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            prepare()
        except UserError as refused:
            assert "\n" not in str(refused), refused


def prepare_run(folder: Path, config_yaml: str, overrides: list[str], *, is_check: bool) -> None:
    path = folder / "config.yaml"
    path.write_text(config_yaml, encoding="utf-8", errors="surrogatepass")
    config = load_config(path, overrides)
    if is_check:
        check.check_run(config, Console(file=io.StringIO()))
    else:
        preflight.prepare(config)


def dumped(tree: dict[str, Any]) -> str:
    # libyaml's dumper: that of Python takes longer than what is tested.
    return yaml.dump(tree, Dumper=yaml.CSafeDumper, allow_unicode=True)


def change(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    node: Any = tree
    for part in parents:
        if not isinstance(node.get(part), dict):
            node[part] = {}
        node = node[part]
    node[leaf] = value


def fuzz(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example]
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=checks)


@fuzz(800)
@given(st.data())
def test_a_changed_configuration(folder: Path, data: st.DataObject) -> None:
    tree = training(folder)
    keys = every_key(folder, TrainConfig)
    for _ in range(data.draw(st.integers(1, 3))):
        change(tree, data.draw(st.sampled_from(keys) | st.text("abc.", min_size=1, max_size=5)), data.draw(values))
    written, is_check = dumped(tree), data.draw(st.booleans())
    is_prepared_or_refused(lambda: prepare_run(folder, written, [], is_check=is_check))


@fuzz(300)
@given(st.data())
def test_a_changed_text_and_overrides(folder: Path, data: st.DataObject) -> None:
    tree = training(folder)
    written = dumped(tree)
    start = data.draw(st.integers(0, len(written)))
    end = data.draw(st.integers(start, min(len(written), start + 9)))
    inserted = data.draw(st.text("{}[]:,-&*!|>'\"#%@`~ \n\t1eN\0\x85", max_size=6))
    changed = written[:start] + inserted + written[end:]
    keys = st.sampled_from(every_key(folder, TrainConfig))
    overrides = data.draw(st.lists(st.builds("{}={}".format, keys, text) | st.text(max_size=9), max_size=2))
    is_check = data.draw(st.booleans())
    is_prepared_or_refused(lambda: prepare_run(folder, changed, overrides, is_check=is_check))


@fuzz(200)
@given(st.data())
def test_a_changed_evaluation(folder: Path, data: st.DataObject) -> None:
    tree = evaluation(folder)
    for _ in range(data.draw(st.integers(1, 2))):
        change(tree, data.draw(st.sampled_from(every_key(folder, EvaluationConfig))), data.draw(values))
    is_prepared_or_refused(lambda: preflight.prepare_evaluation(build_config(EvaluationConfig, tree)))


def broken(content: bytes, data: st.DataObject) -> bytes:
    """`content` with a piece cut out and another put in."""
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, len(content)))
    return content[:start] + data.draw(st.binary(max_size=8)) + content[end:]


@fuzz(550)
@given(st.data())
def test_a_changed_data_file(folder: Path, data: st.DataObject) -> None:
    fields = st.sampled_from(["problem", "answer", "source", "id", "x"])
    rows = data.draw(st.lists(st.dictionaries(fields, values, max_size=4) | values, max_size=3))
    content = "".join(json.dumps(row) + "\n" for row in [*ROWS, *rows]).encode()
    if data.draw(st.booleans()):
        content = broken(content, data)
    suffix = data.draw(st.sampled_from(["jsonl", "json", "JSONL", "parquet", "csv", "jsonl.gz", "arrow", "txt", "zst"]))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / f"rows.{suffix}"
        file.write_bytes(content)
        tree = training(folder)
        tree["data"] |= {"train": str(file), "overlong_prompts": data.draw(st.sampled_from(["drop", "refuse"]))}
        is_check = data.draw(st.booleans())
        is_prepared_or_refused(lambda: prepare_run(folder, dumped(tree), [], is_check=is_check))


@fuzz(150)
@given(st.data())
def test_a_changed_model_folder(folder: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        model = Path(shutil.copytree(folder / "model", Path(scratch) / "model"))
        file = model / data.draw(st.sampled_from(MODEL_FILES))
        content = file.read_bytes()
        if file.suffix == ".json" and data.draw(st.booleans()):
            tree = json.loads(content)
            tree[data.draw(st.sampled_from(sorted(tree)))] = data.draw(values)
            file.write_text(json.dumps(tree))
        elif data.draw(st.booleans()):
            file.write_bytes(broken(content, data))
        else:
            file.unlink()
        is_prepared_or_refused(lambda: read_model_facts(ModelConfig(path=str(model))))
