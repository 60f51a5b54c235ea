"""Known collections of held-out sets, found in a folder by their files' names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maspo_dist.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Sets by name, each with the file stems under which it is known, and how their answers are asked for."""

    stems: Mapping[str, tuple[str, ...]]
    problem_suffix: str


PRESETS: Mapping[str, Preset] = {
    # The six benchmarks of the paper (arXiv 2602.17550).
    "paper": Preset(
        stems={
            "aime24": ("aime24", "aime2024", "aime_2024"),
            "aime25": ("aime25", "aime2025", "aime_2025"),
            "amc23": ("amc23", "amc2023"),
            "math500": ("math500", "math_500"),
            "minerva": ("minerva", "minerva_math"),
            "olympiadbench": ("olympiadbench", "olympiad_bench"),
        },
        problem_suffix="\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
    )
}


def preset_sets(preset: Preset, folder: Path) -> dict[str, str]:
    """The preset's sets in `folder`, by name. Raises DataError naming every file that is missing."""
    if not folder.is_dir():
        raise DataError(f"--data-dir {folder} is not a folder")
    found: dict[str, str] = {}
    for name, stems in preset.stems.items():
        paths = (folder / f"{stem}{suffix}" for stem in stems for suffix in (".jsonl", ".parquet"))
        if path := next(filter(Path.is_file, paths), None):
            found[name] = str(path)
    missing = ", ".join(f"{stems[0]}.jsonl" for name, stems in preset.stems.items() if name not in found)
    if missing:
        raise DataError(f"--data-dir {folder} lacks {missing} (or .parquet); put them there, or use --data")
    return found
