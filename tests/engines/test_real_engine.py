"""A real engine refuses a device that it cannot use, sleeps, and reports stale parameters, a straggler and its death.

Its logprobs of a conversation are the learner's, and so they are with adapters.
"""

from __future__ import annotations

from pathlib import Path

from doubles.tiny_recipe import TINY
from doubles.vllm_forks import run_script

from maspo_dist.demo import make_demo


def test_a_real_engine_names_what_is_stale_cuts_stragglers_sleeps_and_names_its_death(tmp_path: Path) -> None:
    demo = make_demo(tmp_path, 0, TINY)
    assert run_script(Path(__file__).with_name("real_engine.py"), demo.model) == "reached its end"


def test_adapters_reach_a_real_engine_exactly_and_it_names_adapters_that_are_stale(tmp_path: Path) -> None:
    demo = make_demo(tmp_path, 0, TINY)
    assert run_script(Path(__file__).with_name("adapter_engine.py"), demo.model, 1) == "reached its end"
