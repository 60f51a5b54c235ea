"""What happens in a simulated run: its configuration and its faults, both drawn from one seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from doubles.loop import make_config
from talk import TALKING

from maspo_dist.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Probabilities per call, except for the last four, which count events per run."""

    kill: float = 0.0
    hang: float = 0.0
    lost_reply: float = 0.0
    slow_link: float = 0.0
    late_reply: float = 0.0
    learner_loss: float = 0.0
    start_failure: float = 0.0
    start_hang: float = 0.0
    body_loss: float = 0.0
    drains: int = 0
    transfer_failure: float = 0.0
    poison: frozenset[str] = frozenset()
    scalings: int = 0
    node_losses: int = 0
    crashes: int = 0
    stops: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A seed's configuration and what goes wrong in it."""

    seed: int
    config: TrainConfig
    faults: Faults


def make_story(seed: int) -> Story:
    """Draws a story; every eighth is without faults."""
    rng, transport = random.Random(seed), random.Random(f"transport {seed}")
    config = _draw_config(seed, rng, transport)
    faults = _draw_faults(config, rng, transport) if seed % 8 else Faults()
    return Story(seed=seed, config=config, faults=faults)


def _draw_config(seed: int, rng: random.Random, transport: random.Random) -> TrainConfig:
    straggling, talking = random.Random(-seed), random.Random(f"talks {seed}")
    age = rng.choice([0, 0, 1, 1, 2])
    per_step = rng.randint(2, 4)
    max_steps, workers = rng.randint(3, 6), rng.choice([1, 2, 3, {"min": 1, "max": 3}])
    wire = transport.choice(["object_store", "collective"])
    may_share = age == 0 and isinstance(workers, int) and wire == "object_store"
    layout = random.Random(f"layout {seed}")
    is_colocated = may_share and layout.random() < 0.5
    if is_colocated and layout.random() < 0.7:
        wire = "ipc"
    more: dict[str, dict[str, object]] = dict(TALKING) if talking.random() < (0.6 if age else 0.3) else {}
    if is_colocated:
        more["learner"] = {**more.get("learner", {}), "ranks": workers}
    return make_config(
        run={"name": "simulated", "seed": seed % 1000, "max_steps": max_steps},
        rollout={
            "workers": workers,
            "prompts_per_step": per_step,
            "group_size": 2,
            "max_response_tokens": 8,
            "batch_order": rng.choice(["admission", "completion"]),
            "over_sampling": rng.choice([None, 1.25]) if age else None,
            "in_flight_updates": rng.random() < 0.7,
            "max_attempts": rng.randint(2, 4),
            "straggler": straggling.choice(
                [{}, {}, {"deadline_s": 60, "action": "drop"}, {"deadline_s": 60, "action": "requeue"}]
            ),
        },
        algorithm={
            "mini_batches": 2,
            "max_policy_age": age,
            "dynamic_sampling": {"zero_variance": rng.choice(["keep", "drop", "refill"])},
        },
        checkpoint={"every": rng.choice([None, 1, 2, 3])},
        evaluation={"every": rng.choice([None, 1, 2])},
        sync={"transport": wire},
        logging={"tensorboard": False, "sample_groups": 0},
        cluster={
            "layout": "colocated" if is_colocated else "separate",
            "generate_timeout_s": 300,
            "publish_timeout_s": 100,
            "start_timeout_s": 1000,
            "heartbeat_s": 30,
            "heartbeat_timeout_s": 30,
            "stall_timeout_s": 50_000,
            "max_worker_restarts": 1000,
            "max_learner_restarts": 1000,
        },
        **more,
    )


def _draw_faults(config: TrainConfig, rng: random.Random, transport: random.Random) -> Faults:
    prompts = config.run.max_steps * config.rollout.prompts_per_step
    return Faults(
        kill=rng.choice([0, 0.02, 0.1]),
        hang=rng.choice([0, 0.02, 0.05]),
        lost_reply=rng.choice([0, 0, 0.03]),
        slow_link=rng.choice([0, 0.2]),
        late_reply=rng.choice([0, 0.5]),
        learner_loss=rng.choice([0, 0, 0.05]),
        start_failure=rng.choice([0, 0.1]),
        poison=frozenset(f"p{rng.randrange(prompts)}" for _ in range(rng.choice([0, 0, 0, 1]))),
        scalings=rng.choice([0, 0, 3]),
        node_losses=rng.choice([0, 0, 1]),
        crashes=rng.choice([0, 0, 1, 2]),
        stops=rng.choice([0, 0, 1, 2]),
        start_hang=rng.choice([0, 0, 0.1]),
        body_loss=rng.choice([0, 0, 0.05]),
        drains=rng.choice([0, 0, 2]),
        transfer_failure=transport.choice([0, 0.2]),
    )
