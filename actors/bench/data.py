"""How fast a data set becomes prompts: rows of JSON Lines, each problem another, read, tokenized and checked.

The speed is compared with the least work that loading needs, on the first tenth of the rows: each line is parsed as
JSON, and then the tokenizer takes batches.
"""

from __future__ import annotations

import itertools
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from actors.bench.lines import BenchLine, compare
from maspo_dist.config import PromptConfig
from maspo_dist.config.reasoning import REASONING_TAGS
from maspo_dist.data.prompts import load_prompts
from maspo_dist.data.reasoning import mark_open_reasoning
from maspo_dist.demo.model import make_tokenizer

_BATCH_ROWS = 4096


def run(rows: int = 2_000_000) -> Iterator[BenchLine]:
    """The line of the bench. The peak is the memory of the whole process. Takes about a minute and 2 GB."""
    tokenizer = make_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sums.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f'{{"problem": "{i}+{i % 997}", "answer": "{i + i % 997}"}}\n' for i in range(rows))
        bare = rows // 10 / _bare_seconds(path, tokenizer, rows // 10)
        started = time.perf_counter()
        prompts = load_prompts([str(path)], PromptConfig(), tokenizer).prompts
        mark_open_reasoning(prompts, PromptConfig(), tokenizer, REASONING_TAGS)
        seconds = time.perf_counter() - started
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    case = f"{len(prompts):,} rows in {seconds:.1f} s, peak memory {peak_gb:.2f} GB"
    yield compare("data", case, len(prompts) / seconds, "rows/s", bare)


def _bare_seconds(path: Path, tokenizer: PreTrainedTokenizerFast, rows: int) -> float:
    started = time.perf_counter()
    with path.open(encoding="utf-8") as file:
        lines = itertools.islice(file, rows)
        while batch := [json.loads(line)["problem"] for line in itertools.islice(lines, _BATCH_ROWS)]:
            tokenizer(batch, add_special_tokens=False, return_attention_mask=False)
    return time.perf_counter() - started
