"""The commands and paths in the guides exist, and the configurations in the README load."""

import re
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from actors.cli import app
from maspo_dist.compare.options import make_settings
from maspo_dist.compare.plan import make_plan
from maspo_dist.config import TrainConfig, build_config, dump_config, load_config
from maspo_dist.config.keys import resume_changes
from maspo_dist.environments.protocol import Step, Task

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
#: Guides whose paths are checked.
GUIDES = [
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *ROOT.glob("CONTRIBUTING.md"), ROOT / "tests/README.md", ROOT / "deploy/README.md")
]
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_the_make_targets_in_the_readme_exist(line: str) -> None:
    target = line.split()[1]
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", [line for line in COMMANDS if "maspo-dist" in line])
def test_the_commands_in_the_readme_exist_and_their_configurations_load(line: str) -> None:
    words = line.partition("#")[0].partition("maspo-dist ")[2].split()
    assert CliRunner().invoke(app, [words[0], "--help"]).exit_code == 0
    configs = [word for word in words if word.endswith(".yaml")]
    for config in configs:
        if words[0] == "compare":
            overrides = list(takewhile(lambda word: "=" in word, words[words.index(config) + 1 :]))
            varied = [word for option, word in pairwise(words) if option == "--vary"]
            make_plan(*make_settings(ROOT / config, {}, overrides=overrides, varied=varied))
        else:
            load_config(ROOT / config, [word for word in words if "=" in word])


def test_the_commands_about_one_run_in_the_readme_fit_together() -> None:
    clip = [line.split() for line in COMMANDS if "run.name=clip" in line or "runs/clip" in line]
    started, resumed = (
        load_config(ROOT / words[2], [word for word in words if "=" in word]) for words in clip if words[1] == "train"
    )
    assert resume_changes(dump_config(started), resumed)[0] == []
    assert resumed.checkpoint.every is not None
    [step] = [int(words[-1]) for words in clip if words[1] == "replay"]
    kept = int(resumed.logging.record_steps.removeprefix("last:"))
    assert resumed.run.max_steps - kept < step <= resumed.run.max_steps
    [scored] = [line.split() for line in COMMANDS if "maspo-dist eval --model exported" in line]
    assert scored[scored.index("--data") + 1] in resumed.data.eval.values()
    assert int(scored[scored.index("--max-response-tokens") + 1]) == resumed.rollout.max_response_tokens


def test_the_configurations_in_the_readme_load() -> None:
    whole, *sections = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
    assert build_config(TrainConfig, whole).run.name == "mine"
    assert sections
    for section in sections:
        build_config(TrainConfig, whole | section)


@pytest.mark.parametrize("guide", GUIDES)
def test_the_paths_in_every_guide_exist(guide: str) -> None:
    """A path may stand for the files that a `*` in it matches."""
    text = (ROOT / guide).read_text()
    paths = re.findall(r"(?<![\w./])((?:maspo_dist|actors|configs|deploy|tests)/[\w/.*-]*)", text)
    assert paths
    assert [path for path in paths if not list(ROOT.glob(path.rstrip("/.")))] == []


def test_the_python_of_the_readme_runs() -> None:
    environment, loss = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    logprobs = torch.full((2, 3), -1.0, requires_grad=True)
    names: dict[str, Any] = {
        "logprobs": logprobs,
        "old_logprobs": logprobs.detach(),
        "advantages": torch.tensor([1.0, -1.0]),
        "mask": torch.tensor([[True, True, True], [True, True, False]]),
    }
    exec(loss, names)
    assert names["loss"].item() == pytest.approx(-1 / 5)

    exec(environment, names)
    game = names["HigherLower"]()
    game.reset(Task(prompt_id="p", reference="7", source="", seed=1))
    assert [game.step(guess).observation for guess in ("seven", "3", "9")] == [
        "Answer with a number.",
        "higher",
        "lower",
    ]
    assert game.step(" 7") == Step(done=True, reward=1.0)
