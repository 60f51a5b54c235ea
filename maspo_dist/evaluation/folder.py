"""The folder of an evaluation, in which it can be resumed.

evals/<name>/
    settings.yaml    everything that the scores depend on: settings, versions, checksums of files
    problems.jsonl   set, prompt_id, prompt, reference
    samples.jsonl    every response and its verdict; one write per finished problem
    results.json     scores, when all problems have ended
    logs/            one file per process
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import yaml

import maspo_dist
from maspo_dist.config import EvaluationConfig
from maspo_dist.config.extension import extension_files
from maspo_dist.config.keys import changed_keys, effect_of, flatten
from maspo_dist.config.section import Effect
from maspo_dist.data.rows import HUB_PREFIX
from maspo_dist.errors import ConfigError
from maspo_dist.evaluation.results import Outcome
from maspo_dist.runs.folder import LockedFolder
from maspo_dist.runs.jsonl import JsonLog, read_rows, replace_text
from maspo_dist.types import TurnRow

_MODEL_SUFFIXES = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".py")
_OTHER_FOLDER = "give --to another folder"
_CHECKSUM_KINDS = {"data": "data set", "modules": "module", "maspo_dist": "version of maspo_dist"}
#: What a resumed evaluation needs of every row of samples.jsonl.
_SAMPLE_KEYS = ("set", "prompt_id", "sample", "status", "extracted", "reward", "response_tokens", "finish_reason")

#: A problem by set and prompt id.
ProblemKey = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedSample:
    """One line of samples.jsonl. `sample` numbers a problem's responses from 0; `seed` is the response's own; `turns`
    are all its turns where there are several.
    """

    set: str
    prompt_id: str
    sample: int
    seed: int
    response: str
    reference: str
    source: str
    reward: float
    status: str
    extracted: str | None
    seconds: float
    reason: str
    finish_reason: str
    response_tokens: int
    turns: Sequence[TurnRow] = ()

    def outcome(self) -> Outcome:
        return _outcome(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemRow:
    """One line of problems.jsonl."""

    set: str
    prompt_id: str
    prompt: str
    reference: str


class EvaluationFolder(LockedFolder):
    """The files of one evaluation."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.settings_path = path / "settings.yaml"
        self.problems_path = path / "problems.jsonl"
        self.samples_path = path / "samples.jsonl"
        self.results_path = path / "results.json"
        self._samples = JsonLog(self.samples_path)
        self._logs = [self._samples]

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any]) -> Self:
        """Makes or resumes the folder of an evaluation with `settings`, and takes its lock.

        Raises ConfigError if it is in use, cannot be written, or holds something else, such as other settings.
        """
        folder = cls(path)
        folder._require_ours()
        folder.lock(f"another evaluation: {_OTHER_FOLDER}", _OTHER_FOLDER)
        try:
            if folder.settings_path.is_file():
                folder._require_same(settings)
            else:
                replace_text(folder.settings_path, yaml.safe_dump(dict(settings), sort_keys=False))
        except ConfigError:
            folder.close()
            raise
        return folder

    def finished(self, samples: int) -> dict[ProblemKey, tuple[Outcome, ...]]:
        """Problems with all their `samples` responses; rows of other problems are removed from the file.

        Raises DataError for a damaged row.
        """
        found: dict[ProblemKey, dict[int, Outcome]] = {}
        for row in read_rows(self.samples_path, keys=_SAMPLE_KEYS):
            found.setdefault((row["set"], row["prompt_id"]), {})[int(row["sample"])] = _outcome(row)
        whole = {key: rows for key, rows in found.items() if set(rows) == set(range(samples))}
        if len(whole) < len(found):
            self._samples.keep(lambda row: (row["set"], row["prompt_id"]) in whole)
        return {key: tuple(rows[sample] for sample in range(samples)) for key, rows in whole.items()}

    def write_problems(self, rows: Iterable[ProblemRow]) -> None:
        """Replaces problems.jsonl; equal settings give equal rows."""
        replace_text(self.problems_path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))

    def append(self, samples: Sequence[EvaluatedSample]) -> None:
        """All responses to one problem, in one write."""
        self._samples.append(map(asdict, samples))

    def write_results(self, results: Mapping[str, object]) -> None:
        replace_text(self.results_path, json.dumps(results, indent=2, ensure_ascii=False) + "\n")

    def _require_ours(self) -> None:
        if self.path.is_file():
            raise ConfigError(f"{self.path} is a file: give --to a folder")
        if self.path.is_dir() and not self.settings_path.is_file():
            leftovers = {entry.name for entry in self.path.iterdir()} - {".lock", "logs", "settings.yaml.part"}
            if leftovers:
                raise ConfigError(f"{self.path} holds other files ({min(leftovers)}): give --to a new folder")

    def _require_same(self, settings: Mapping[str, Any]) -> None:
        there = yaml.safe_load(self.settings_path.read_text(encoding="utf-8"))
        for change in changed_keys(EvaluationConfig, there, settings):
            if not _changes_scores(change.effect):
                continue
            difference = f"other settings ({change})"
            if change.key.startswith("checksums."):
                difference = f"another {_part_of(change.key)}"
            fix = f"{_OTHER_FOLDER}, or the same settings to go on there"
            raise ConfigError(f"{self.path} holds an evaluation with {difference}: {fix}")


def evaluation_settings(config: EvaluationConfig) -> dict[str, Any]:
    """The configuration, and what it names: checksums of the model's files, of the data, and of the modules of the
    user's own, without what they import; hub names for themselves; the version of maspo_dist, whose verifiers score.

    Raises OSError as the disk does, and what a package of a module raises.
    """
    model = Path(config.model.path)
    files = sorted(path for path in model.iterdir() if path.suffix in _MODEL_SUFFIXES) if model.is_dir() else []
    data = {
        name: data_set if data_set.startswith(HUB_PREFIX) else _sha256([Path(data_set)])
        for name, data_set in config.data.sets.items()
    }
    tree = config.model_dump(mode="json")
    checksums = {
        "model": _sha256(files) if model.is_dir() else config.model.path,
        "data": data,
        "modules": {name: _sha256([path]) for name, path in extension_files(tree).items()},
        "maspo_dist": maspo_dist.__version__,
    }
    return {**tree, "checksums": checksums}


def default_folder(settings: Mapping[str, Any]) -> Path:
    """evals/<model>-<digest of the settings>: the same command finds its folder again."""
    fixed = {key: value for key, value in flatten(settings) if _changes_scores(effect_of(EvaluationConfig, key))}
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()[:8]
    parts = [part for part in Path(settings["model"]["path"]).resolve().parts[-2:] if part != "model"]
    return Path("evals") / f"{parts[-1]}-{digest}"


def _part_of(checksum: str) -> str:
    """What the key of a checksum stands for: checksums.data.gsm8k is `data set gsm8k`."""
    _, kind, *names = checksum.split(".", 2)
    return " ".join([_CHECKSUM_KINDS.get(kind, kind), *names])


def _outcome(row: Mapping[str, Any]) -> Outcome:
    return Outcome(
        status=row["status"],
        extracted=row["extracted"],
        reward=float(row["reward"] or 0.0),
        response_tokens=int(row["response_tokens"]),
        truncated=row["finish_reason"] == "length",
    )


def _sha256(paths: Iterable[Path]) -> str:
    """Of the names and the contents, in order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def _changes_scores(effect: Effect | None) -> bool:
    """Keys without a stated effect count: checksums, and keys of another version."""
    return effect is None or effect.scores
