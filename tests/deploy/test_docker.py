"""The image: small layers that cache, everything pinned, no root; by the rules of hadolint that can be checked here."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text()


def instructions(text: str) -> list[tuple[str, str]]:
    """(FROM, …), (RUN, …) in order, without comments, continuations joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in found]


def mistakes(text: str) -> list[str]:
    """What is wrong with a Dockerfile, a sentence for each mistake."""
    steps = instructions(text)
    found: list[str] = []
    stages = {rest.split()[2] for name, rest in steps if name == "FROM" and " AS " in rest}
    for name, rest in steps:
        if name == "FROM" and rest.split()[0] not in stages and not re.search(r":\d+\.\d+", rest):
            found.append(f"FROM {rest}: pin a release of the base image")
        if name == "ADD":
            found.append(f"ADD {rest}: use COPY")
        if name == "RUN":
            found += _of_run(rest)
        if name == "CMD" and not rest.startswith("["):
            found.append(f"CMD {rest}: use the form of a list, so that signals reach the program")
    users = [rest for name, rest in steps if name == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*", users[-1]):
        found.append("USER: end with the number of a user that is not root, which Kubernetes can check")
    return found


def _of_run(command: str) -> list[str]:
    found = []
    if "apt-get install" in command:
        if "--no-install-recommends" not in command:
            found.append("apt-get install: add --no-install-recommends")
        if not command.count("apt-get update") or "rm -rf /var/lib/apt/lists/*" not in command:
            found.append("apt-get install: update and remove the lists in the same layer")
    for part in re.split(r"&&|\|\||;", command):
        if re.search(r"pip (install|wheel)", part) and "--no-cache-dir" not in part:
            found.append(f"{part.strip()}: add --no-cache-dir")
        if re.search(r"pip install", part) and not re.search(r"==|--requirement|\.whl", part):
            found.append(f"{part.strip()}: pin the version")
    if re.search(r"\bsudo\b|https?://", command):
        found.append(f"RUN {command}: neither sudo nor downloads")
    return found


def test_the_dockerfile_follows_the_rules() -> None:
    assert mistakes(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("debian:12.12-slim", "debian:latest", "pin a release of the base image"),
        ("USER 1000", "USER root", "a user that is not root"),
        ("USER 1000\n", "", "a user that is not root"),
        (" --no-install-recommends", "", "add --no-install-recommends"),
        ("setuptools==78.1.1", "setuptools", "pin the version"),
        ("pip wheel --no-cache-dir", "pip wheel", "add --no-cache-dir"),
        ("COPY maspo_dist", "ADD maspo_dist", "use COPY"),
        ('CMD ["maspo-dist", "--help"]', "CMD maspo-dist --help", "the form of a list"),
        ("    && rm -rf /var/lib/apt/lists/* \\\n", "", "remove the lists"),
    ],
)
def test_a_broken_rule_is_named(old: str, new: str, said: str) -> None:
    assert old in DOCKERFILE
    assert any(said in mistake for mistake in mistakes(DOCKERFILE.replace(old, new)))


def test_a_change_of_the_source_keeps_the_layer_of_the_packages() -> None:
    [last] = [i for i, (name, rest) in enumerate(instructions(DOCKERFILE)) if name == "FROM" and rest == "base"]
    final = instructions(DOCKERFILE)[last:]
    packages = next(i for i, (_, rest) in enumerate(final) if "--requirement" in rest)
    source = next(i for i, (_, rest) in enumerate(final) if "--from=wheel" in rest)
    assert packages < source
    copied = [rest.split()[0] for name, rest in final[:source] if name == "COPY"]
    assert copied == ["deploy/requirements-${KIND}.txt"]


def test_what_is_copied_is_there_and_is_sent_to_the_builder() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [word for name, rest in instructions(DOCKERFILE) if name == "COPY" for word in rest.split()[:-1]]
    for word in copied:
        if word.startswith("--from=") or word == "/dist":
            continue
        for path in [word.replace("${KIND}", kind) for kind in ("gpu", "cpu")]:
            assert (ROOT / path).exists(), path
            assert any(fnmatch(path, pattern) for pattern in kept), f"{path} is ignored"


def test_the_wheel_is_built_with_the_pinned_setuptools() -> None:
    pins = re.findall(r"setuptools==[\d.]+", DOCKERFILE + (ROOT / "pyproject.toml").read_text())
    assert len(pins) >= 3
    assert len(set(pins)) == 1
