"""Bad input is one sentence that names the key, the value and the fix; exit code 2; nothing has started."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import ray
import yaml
from doubles.command_line import call
from doubles.run_folders import write_run
from doubles.untrained_demo import save_untrained_demo

from actors.ray.on_node import free_address
from maspo_dist.demo.model import make_model, make_tokenizer
from maspo_dist.errors import PlacementError
from maspo_dist.models.folder import save_model_folder
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.step_folders import StepFolders

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Input:
    """A configuration that can run, in a folder of its own."""

    folder: Path
    model: Path
    overrides: tuple[str, ...] = ()

    @property
    def train(self) -> Path:
        return self.folder / "train.jsonl"

    def but(self, *overrides: str) -> Input:
        return replace(self, overrides=(*self.overrides, *overrides))

    def with_rows(self, *lines: str) -> Input:
        self.train.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return self


Mistake = Callable[[Input], Input]


def row(**fields: object) -> str:
    return json.dumps(fields)


def without_chat_template(given: Input) -> Input:
    plain = given.folder / "plain"
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    save_model_folder(plain, make_model(tokenizer, 0), tokenizer)
    return given.but(f"model.path={plain}")


def used_folder(given: Input) -> Input:
    with RunFolder.create(given.folder / "runs" / "bad") as folder:
        folder.write_metrics(1, {"reward/mean": 0.5})
    return given


def another_runs_checkpoint(given: Input) -> Input:
    other = StepFolders(given.folder / "other")
    return used_folder(given).but(f"checkpoint.resume={other.finish(other.begin(40), 40, {})}")


#: name → what is done to a good input, and what the sentence must say: key or file, value, fix.
MISTAKES: dict[str, tuple[Mistake, tuple[str, ...]]] = {
    "unknown key": (
        lambda given: given.but("rollout.group_sise=8"),
        ("rollout.group_sise", "no such key", "8", "did you mean group_size?"),
    ),
    "unknown section": (lambda given: given.but("rolout.workers=3"), ("rolout", "did you mean rollout?")),
    "key of another loss": (
        lambda given: given.but("algorithm.loss.kind=clip", "algorithm.loss.alpha=0.3"),
        ("algorithm.loss.alpha", "0.3", "known keys here: dual_clip, epsilon_high, epsilon_low, kind"),
    ),
    "unknown loss": (
        lambda given: given.but("algorithm.loss.kind=ppo"),
        ("algorithm.loss", "'ppo'", "'maspo'", "'clip'"),
    ),
    "wrong type": (lambda given: given.but("learner.ranks=two"), ("learner.ranks", "'two'", "integer")),
    "not an override": (lambda given: given.but("learner.ranks"), ("'learner.ranks'", "dotted.key=value")),
    "out of range": (lambda given: given.but("learner.lr=-1"), ("learner.lr", "greater than 0", "-1")),
    "not a choice": (lambda given: given.but("learner.zero_stage=4"), ("learner.zero_stage", "0, 1, 2 or 3", "4")),
    "missing key": (lambda given: given.but("rollout.prompts_per_step=null"), ("rollout.prompts_per_step", "None")),
    "inert trust region": (
        lambda given: given.but("algorithm.mini_batches=1"),
        ("mini_batches is 1", "the ratio is exactly 1", "set mini_batches to 2 or more"),
    ),
    "more mini-batches than groups": (
        lambda given: given.but("algorithm.mini_batches=9"),
        ("algorithm.mini_batches (9)", "rollout.prompts_per_step (4)", "needs at least one group"),
    ),
    "missing model": (
        lambda given: given.but("model.path=./nowhere/model"),
        ("model.path ./nowhere/model does not exist", "set model.path to a Hugging Face folder"),
    ),
    "misspelt model": (
        lambda given: given.but(f"model.path={given.folder}/modle"),
        ("modle does not exist", "did you mean {folder}/model?"),
    ),
    "not a model": (
        lambda given: given.but(f"model.path={given.folder}"),
        ("model.path {folder}", "holds no config.json"),
    ),
    "missing data file": (
        lambda given: given.but(f"data.train=[{given.folder}/trian.jsonl]"),
        ("{folder}/trian.jsonl does not exist", "did you mean {folder}/train.jsonl?"),
    ),
    "missing data folder": (
        lambda given: given.but("data.eval.far=nowhere/at/all.jsonl"),
        ("nowhere/at/all.jsonl does not exist", "there is no folder nowhere/at"),
    ),
    "row without its answer": (
        lambda given: given.with_rows(row(problem="1+1", answer="2"), row(problem="1+2", solution="3")),
        ("{folder}/train.jsonl, line 2", "no field 'answer'", "the row has problem, solution", "set data.answer_field"),
    ),
    "not JSON": (
        lambda given: given.with_rows(row(problem="1+1", answer="2"), "1+2,3"),
        ("{folder}/train.jsonl, line 2", "write one object per line"),
    ),
    "empty data set": (lambda given: given.with_rows(), ("{folder}/train.jsonl holds no rows",)),
    "prompt over its limit": (
        lambda given: given.with_rows(row(problem="1+" * 40, answer="2")),
        ("line 1", "82 tokens, over data.max_prompt_tokens (32)", "set data.overlong_prompts to drop"),
    ),
    "prompt longer than the model": (
        lambda given: given.but("data.max_prompt_tokens=250"),
        ("data.max_prompt_tokens (250)", "rollout.max_response_tokens (20)", "holds 256", "lower one of them"),
    ),
    "no chat template": (
        without_chat_template,
        ("data.template is chat", "no chat template", "set data.template to none, or to text with {problem}"),
    ),
    "template without the problem": (
        lambda given: given.but("data.template=Question"),
        ("data.template", "'Question'", "text that holds {problem}"),
    ),
    "unknown verifier": (
        lambda given: given.but("reward.default=maths"),
        ("reward.default", "'maths'", "did you mean math?"),
    ),
    "misspelt source": (
        lambda given: given.but("reward.verifiers.trian=exact"),
        ("reward.verifiers.trian", "no prompt of the data sets has the source 'trian'", "did you mean train?"),
    ),
    "source of no row": (
        lambda given: given.but("reward.verifiers.gsm8k=exact"),
        ("reward.verifiers.gsm8k", "no prompt", "remove it; their sources are train"),
    ),
    "adapter at no layer": (
        lambda given: given.but("learner.lora.targets=[q_proj, W_pack]"),
        ("learner.lora.targets names W_pack", "no linear layer of that name", "choose among down_proj, gate_proj"),
    ),
    "heads that ranks cannot share": (
        lambda given: given.but("learner.ranks=3", "learner.sequence_parallel=3"),
        (
            *("learner.sequence_parallel is 3", "divide the 4 attention heads", "2 key-value heads or be a multiple"),
            "choose one of 1, 2, 4",
        ),
    ),
    "heads that the GPUs of an engine cannot share": (
        lambda given: given.but("rollout.tensor_parallel=3"),
        (
            *("rollout.tensor_parallel is 3", "divide the 4 attention heads", "2 key-value heads or be a multiple"),
            "choose one of 1, 2, 4",
        ),
    ),
    "ranks that do not divide": (
        lambda given: given.but("learner.ranks=3", "learner.sequence_parallel=2"),
        ("learner", "sequence_parallel is 2", "does not divide the 3 ranks", "set ranks to a multiple"),
    ),
    "attention that ranks cannot share": (
        lambda given: given.but("learner.ranks=2", "learner.sequence_parallel=2", "model.attention=eager"),
        (
            "learner.sequence_parallel is 2",
            "model.attention is eager, and only auto can share sequences",
            "set it to 1",
        ),
    ),
    "dropout of adapters": (
        lambda given: given.but("learner.lora.dropout=0.1"),
        ("learner.lora.dropout", "would change ratios", "got 0.1", "remove it"),
    ),
    "more processes than this machine can place": (
        lambda given: given.but("rollout.workers=1000"),
        (
            *("the run needs", "where the cluster has", "1000 × rollout", "lower learner.ranks or rollout.workers"),
            "without RAY_ADDRESS the cluster is this machine alone",
        ),
    ),
    "run folder exists": (
        used_folder,
        ("run folder {folder}/runs/bad exists already", "choose another run.name", "checkpoint.resume=auto"),
    ),
    "run folder in a file": (
        lambda given: given.but(f"run.dir={given.train}"),
        ("{folder}/train.jsonl/bad cannot be written (Not a directory): set run.dir",),
    ),
    "run folder where none can be made": (
        lambda given: given.but("run.dir=/proc/runs"),
        ("/proc/runs/bad cannot be written (No such file or directory): set run.dir",),
    ),
    "best by a misspelt set": (
        lambda given: given.but(f"data.eval.addition={given.train}", "checkpoint.keep_best=eval/adition/avg@1"),
        ("checkpoint.keep_best is 'eval/adition/avg@1'", "did you mean eval/addition/avg@1?"),
    ),
    "best by a misspelt metric": (
        lambda given: given.but("checkpoint.keep_best=reward/maen"),
        ("checkpoint.keep_best is 'reward/maen'", "did you mean reward/mean?"),
    ),
    "best by a score of another number of samples": (
        lambda given: given.but(f"data.eval.addition={given.train}", "checkpoint.keep_best=eval/addition/avg@4"),
        ("checkpoint.keep_best is 'eval/addition/avg@4'", "did you mean eval/addition/avg@1?"),
    ),
    "flash attention on a CPU": (
        lambda given: given.but("model.dtype=bfloat16", "model.attention=flash_attention_2"),
        ("model.attention is flash_attention_2", "model.device is cpu", "set attention to auto"),
    ),
    "checkpoint that is none": (
        lambda given: given.but(f"checkpoint.resume={given.folder}/step-000040"),
        ("checkpoint.resume {folder}/step-000040", "not a good checkpoint"),
    ),
    "checkpoint of another run": (
        another_runs_checkpoint,
        (
            "checkpoint.resume {folder}/other/step-000040 is of another run than the one in {folder}/runs/bad",
            "choose another run.name, or set checkpoint.resume=auto",
        ),
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained_demo(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def given(model: Path, tmp_path: Path) -> Input:
    tree = yaml.safe_load((ROOT / "configs/local_smoke.yaml").read_text(encoding="utf-8"))
    (tmp_path / "model").symlink_to(model)
    tree["run"] |= {"name": "bad", "dir": str(tmp_path / "runs")}
    tree["model"] |= {"path": str(tmp_path / "model")}
    tree["data"] |= {"train": [str(tmp_path / "train.jsonl")], "eval": {}}
    tree["rollout"] |= {"prompts_per_step": 4, "max_response_tokens": 20}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return Input(tmp_path, model).with_rows(row(problem="1+1", answer="2"))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_within_seconds(name: str, given: Input) -> None:
    make, fragments = MISTAKES[name]
    bad = make(given)
    children = psutil.Process().children(recursive=True)
    started_s = time.monotonic()

    called = call("train", str(bad.folder / "config.yaml"), *bad.overrides)

    assert called.returncode == 2
    sentence = called.stderr.removesuffix("\n")
    assert sentence.startswith("error: ")
    assert "\n" not in sentence
    for fragment in fragments:
        assert fragment.replace("{folder}", str(bad.folder)) in sentence
    assert called.stdout == ""
    assert time.monotonic() - started_s < 10
    assert not ray.is_initialized()
    assert psutil.Process().children(recursive=True) == children


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint that is none",
        "checkpoint of another run",
        "run folder exists",
        "run folder in a file",
        "run folder where none can be made",
        "best by a misspelt set",
        "flash attention on a CPU",
        "misspelt source",
    ],
)
def test_check_refuses_what_train_refuses(name: str, given: Input) -> None:
    make, fragments = MISTAKES[name]
    bad = make(given)
    called = call("check", str(bad.folder / "config.yaml"), *bad.overrides)
    assert called.returncode == 2
    assert called.stderr.count("\n") == 1
    for fragment in fragments:
        assert fragment.replace("{folder}", str(bad.folder)) in called.stderr


def test_a_checkpoint_on_another_machine_is_what_this_machine_lacks(given: Input) -> None:
    called = call("check", str(given.folder / "config.yaml"), "checkpoint.resume=/other/machine/step-000040")
    assert called.returncode == 0
    assert "still lacks\n  checkpoint /other/machine/step-000040" in called.stdout


@pytest.mark.parametrize("command", ["status", "report"])
@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("events.jsonl", '{"kind": "resumed", "message": "m"}\n', "line 1: the row has no 'time'; remove the line"),
        ("metrics.jsonl", '{"step": 1}\n{"reward/mean": 0.5}\n', "line 2: the row has no 'step'; remove the line"),
        ("ledger.jsonl", '{"group_id": 1}\n', "line 1: the row has no 'outcome'; remove the line"),
        ("config.yaml", "run: [", "line 1 cannot be read as YAML"),
        ("config.yaml", "", "is empty: restore it"),
    ],
)
def test_a_damaged_file_of_a_run_folder_is_one_sentence(
    command: str, file: str, content: str, sentence: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", steps=2)
    (run.path / file).write_text(content)
    called = call(command, str(run.path))
    assert called.returncode == 2
    assert re.fullmatch(rf"error: {run.path / file},? {re.escape(sentence)}.*\n", called.stderr)


def test_a_report_refuses_a_sample_without_its_step(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=2)
    with run.samples_path.open("a") as file:
        file.write('{"response": "5"}\n')
    called = call("report", str(run.path))
    assert called.returncode == 2
    assert called.stderr.startswith(f"error: {run.samples_path}, line 9: the row has no 'step'; remove the line")


def test_an_address_where_no_cluster_answers_is_refused(given: Input, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        called = call("train", str(given.folder / "config.yaml"))
    assert called.returncode == 2
    sentence = called.stderr.splitlines()[-1]
    assert sentence.startswith(f"error: RAY_ADDRESS is {address}, but no Ray cluster answers there")
    assert "start one with `ray start --head`, or unset RAY_ADDRESS" in sentence


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001"])
def test_an_address_for_jobs_or_clients_is_refused(address: str, given: Input, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    called = call("train", str(given.folder / "config.yaml"))
    assert called.returncode == 2
    assert f"RAY_ADDRESS is {address}, where Ray takes jobs or clients: set it to HOST:PORT" in called.stderr


def test_a_long_temporary_folder_is_refused_with_its_remedy(
    given: Input, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "a_long_scratch_folder_of_a_batch_system" / "people" / "user_name"
    folder.mkdir(parents=True)
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    called = call("train", str(given.folder / "config.yaml"))
    assert called.returncode == 2
    sentence = called.stderr.splitlines()[-1]
    assert "Ray does not start on this machine" in sentence
    assert "set RAY_TMPDIR to a shorter folder, such as /tmp" in sentence


@pytest.mark.parametrize(
    ("place", "remedy"),
    [
        ("/home/me/.ray", "Ray keeps its token there: set HOME to a folder that can be written"),
        ("/nowhere", "set RAY_TMPDIR to a short folder that can be written"),
    ],
)
def test_a_home_or_temporary_folder_that_cannot_be_written_is_refused_with_its_remedy(
    place: str, remedy: str, given: Input, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**settings: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), place)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", fail)
    called = call("train", str(given.folder / "config.yaml"))
    assert called.returncode == 2
    sentence = called.stderr.splitlines()[-1]
    assert f"Read-only file system: '{place}'; {remedy}" in sentence


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_a_full_disk_and_too_few_descriptors_are_one_sentence(
    number: int, given: Input, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(RunFolder, "create", fail)
    called = call("train", str(given.folder / "config.yaml"))
    assert called.returncode == 1
    assert called.stderr.startswith(f"error: {os.strerror(number)} ({given.folder}/runs/bad): ")
    assert called.stderr.count("\n") == 1


def test_a_port_in_use_is_refused_by_its_key() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PlacementError, match=rf"cluster\.learner_port {port} is in use on .*: choose another"):
            free_address(port, release_s=0.0)
    assert free_address(port, release_s=0.0).endswith(f":{port}")


def test_the_input_of_these_tests_is_good_but_for_the_mistake(given: Input) -> None:
    called = call("check", str(given.folder / "config.yaml"))
    assert called.returncode == 0
    assert "the configuration is valid, model and data are here" in called.stdout
