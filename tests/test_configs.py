"""Every configuration that comes with the project loads, and says what it is for."""

from __future__ import annotations

import io
import socket
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from rich.console import Console
from transformers import AutoModelForCausalLM, Qwen2Config

from maspo_dist.algorithm.logprobs import CHUNK_ELEMENTS
from maspo_dist.config import ClipLoss, PromptConfig, TrainConfig, load_config
from maspo_dist.config.keys import changed_keys
from maspo_dist.data.rows import read_rows
from maspo_dist.errors import DataError, HubUnreachableError, ModelError
from maspo_dist.models.facts import hub_is_reachable
from maspo_dist.models.linear_layers import linear_kinds
from maspo_dist.models.size import KNOWN_SIZES
from maspo_dist.planning.check import check_run
from maspo_dist.planning.placement import HEAD_LOGITS
from maspo_dist.planning.preflight import inspect_model

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(path for path in CONFIGS.glob("*.yaml") if not path.stem.startswith("compare_"))
HELD_OUT = {"aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_loads_and_names_its_hardware(path: Path) -> None:
    config = load_config(path)
    assert path.read_text(encoding="utf-8").startswith("# Hardware: ")
    engine_room = config.rollout.engine["max_model_len"]
    assert config.data.max_prompt_tokens + config.rollout.max_response_tokens <= engine_room


@pytest.mark.parametrize("size", ["1.5b", "7b"])
def test_the_papers_recipes_differ_in_nothing_but_the_loss(size: str) -> None:
    maspo = load_config(CONFIGS / f"r1_distill_qwen_{size}_maspo.yaml")
    grpo = load_config(CONFIGS / f"r1_distill_qwen_{size}_grpo.yaml")
    assert (maspo.algorithm.loss.kind, grpo.algorithm.loss.kind) == ("maspo", "clip")
    assert without_loss_and_name(maspo) == without_loss_and_name(grpo)


@pytest.mark.parametrize("size", ["1.5b", "7b"])
def test_the_papers_recipes_hold_the_authors_values(size: str) -> None:
    config = load_config(CONFIGS / f"r1_distill_qwen_{size}_maspo.yaml")
    assert config.rollout.prompts_per_step == 512
    assert config.rollout.prompts_per_step // config.algorithm.mini_batches == 32
    assert config.learner.lr == pytest.approx(4.63e-7)
    assert config.algorithm.kl.coefficient == 0
    assert set(config.data.eval) == HELD_OUT
    grpo = load_config(CONFIGS / f"r1_distill_qwen_{size}_grpo.yaml").algorithm.loss
    assert grpo == ClipLoss(epsilon_low=0.2, epsilon_high=0.2, dual_clip=3.0)


def test_the_asynchronous_recipe_differs_in_its_batches_alone() -> None:
    names = ("r1_distill_qwen_1.5b_maspo", "r1_distill_qwen_1.5b_maspo_async")
    strict, ahead = (load_config(CONFIGS / f"{name}.yaml") for name in names)
    changes = changed_keys(TrainConfig, strict.model_dump(mode="json"), ahead.model_dump(mode="json"))
    batches = ("max_policy_age", "mini_batches", "old_logprobs")
    assert {change.key for change in changes} == {"run.name", *(f"algorithm.{key}" for key in batches)}


def test_the_excerpts_are_whole_and_disjoint() -> None:
    fields = PromptConfig()
    train = list(read_rows(str(CONFIGS / "data" / "gsm8k_excerpt.jsonl"), fields))
    heldout = list(read_rows(str(CONFIGS / "data" / "gsm8k_heldout_excerpt.jsonl"), fields))
    assert (len(train), len(heldout)) == (64, 16)
    assert not {row.problem for row in train} & {row.problem for row in heldout}
    assert {row.source for row in train + heldout} == {"gsm8k"}


def without_loss_and_name(config: TrainConfig) -> dict[str, object]:
    return config.model_dump(exclude={"run": {"name"}, "algorithm": {"loss"}})


@pytest.fixture
def bare_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configurations alone, where nothing has been made yet and no hub answers."""
    monkeypatch.setattr("maspo_dist.models.facts.hub_is_reachable", lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(CONFIGS)
    return tmp_path


def checked(path: Path, *overrides: str) -> str:
    screen = io.StringIO()
    check_run(load_config(path, overrides), Console(file=screen, width=200))
    return screen.getvalue()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_check_accepts_it_where_model_and_data_are_not(path: Path, bare_clone: Path) -> None:
    said = checked(path)
    _, lacking = said.split("the configuration is valid; to train, this machine still lacks")
    assert load_config(path).model.path in lacking


@pytest.mark.parametrize(("size", "learner_memory"), [("1.5b", "16.27 GiB"), ("7b", "27.18 GiB")])
def test_check_plans_the_papers_recipes_without_their_models(size: str, learner_memory: str, bare_clone: Path) -> None:
    said = checked(CONFIGS / f"r1_distill_qwen_{size}_maspo.yaml")
    assert "placement on cuda" in said
    assert learner_memory in said
    assert "data data/aime24.jsonl" in said


def test_check_refuses_paths_that_do_not_exist(bare_clone: Path) -> None:
    recipe = CONFIGS / "r1_distill_qwen_1.5b_maspo.yaml"
    (bare_clone / "data").mkdir()
    with pytest.raises(DataError, match=r"data file data/dapo_math_17k.jsonl does not exist"):
        checked(recipe)
    (bare_clone / "data").rename(bare_clone / "dataa")
    with pytest.raises(DataError, match=r"data file data/dapo_math_17k.jsonl does not exist"):
        checked(recipe)
    with pytest.raises(ModelError, match=r"model.path ./model does not exist"):
        checked(recipe, "model.path=./model")


def test_the_sizes_that_are_known_without_a_hub_are_the_models_own() -> None:
    shapes = {"1.5B": (1536, 8960, 12, 2, 151_936), "7B": (3584, 18_944, 28, 4, 152_064)}
    for name, (hidden, intermediate, heads, kv_heads, vocabulary) in shapes.items():
        config = Qwen2Config(
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=28,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            vocab_size=vocabulary,
            tie_word_embeddings=False,
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        known = KNOWN_SIZES[f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{name}"]
        assert known.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert (known.layers, known.kv_heads, known.head_dim) == (28, kv_heads, hidden // heads)
        assert (known.hidden, known.intermediate, known.vocabulary) == (hidden, intermediate, vocabulary)
        assert known.linear_layers == linear_kinds(model)


def test_the_plan_counts_the_logits_that_the_head_computes_at_a_time() -> None:
    assert HEAD_LOGITS == CHUNK_ELEMENTS


def test_a_hub_that_does_not_answer_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        hub_is_reachable.cache_clear()
        try:
            with pytest.raises(HubUnreachableError, match=r"set model.path to a Hugging Face folder"):
                inspect_model(load_config(CONFIGS / "r1_distill_qwen_7b_maspo.yaml"))
        finally:
            hub_is_reachable.cache_clear()
