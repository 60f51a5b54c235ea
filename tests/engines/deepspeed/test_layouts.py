"""One batch, many layouts, one result: real DeepSpeed processes, ragged responses, four optimizer steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from doubles.model_kinds import save_mixed
from doubles.tiny_learner import make_groups, make_model, score
from layouts import ALGORITHMS, LONGEST, Layout, Trained, layout_config, relative_distance, train
from plain_update import plain_update

from maspo_dist.data.batching import lay_out_batch

#: Of the whole change of the parameters, in the Euclidean norm.
TOLERANCE = 1e-5

REFERENCE = Layout(ranks=1, zero_stage=0, micro_batch_tokens=1)
OTHERS = (
    Layout(ranks=1, zero_stage=0, micro_batch_tokens=8 * LONGEST),
    Layout(ranks=1, zero_stage=1, shuffled=True),
    Layout(ranks=1, zero_stage=2, gradient_checkpointing=True),
    Layout(ranks=1, zero_stage=3, micro_batch_tokens=1),
    Layout(ranks=2, zero_stage=0),
    Layout(ranks=2, zero_stage=1),
    Layout(ranks=2, zero_stage=2),
    Layout(ranks=2, zero_stage=2, micro_batch_tokens=1),
    Layout(ranks=2, zero_stage=2, micro_batch_tokens=LONGEST),
    Layout(ranks=2, zero_stage=2, micro_batch_tokens=8 * LONGEST),
    Layout(ranks=2, zero_stage=2, shuffled=True),
    Layout(ranks=2, zero_stage=3),
    Layout(ranks=2, zero_stage=3, micro_batch_tokens=1),
    Layout(ranks=2, zero_stage=3, gradient_checkpointing=True),
    Layout(ranks=2, zero_stage=1, offload=True),
    Layout(ranks=2, zero_stage=3, offload=True),
)
BFLOAT16 = tuple(Layout(ranks=1, zero_stage=stage, dtype="bfloat16") for stage in (0, 1, 2, 3))


def _pair(**options: str | int) -> tuple[Layout, Layout]:
    """The plainest layout and one with everything partitioned and packed."""
    return (
        Layout(ranks=1, zero_stage=0, micro_batch_tokens=1, **options),  # type: ignore[arg-type]
        Layout(ranks=2, zero_stage=3, **options),  # type: ignore[arg-type]
    )


PAIRS = (
    _pair(model="tied"),
    _pair(algorithm="bapo"),
    _pair(algorithm="gspo"),
    _pair(algorithm="kl loss", batches=2),
    _pair(algorithm="kl reward", batches=2),
    _pair(algorithm="rollout"),
    _pair(algorithm="kl loss", batches=2, lora=True),
    (
        _pair(lora=True, model="tied")[0],
        Layout(ranks=2, zero_stage=2, gradient_checkpointing=True, lora=True, model="tied"),
    ),
)


def _shared(ranks: int, sequence_parallel: int, zero_stage: int, **options: str | int) -> tuple[Layout, Layout]:
    """The plainest layout and one where ranks share sequences."""
    plain = Layout(ranks=1, zero_stage=0, micro_batch_tokens=1, **options)  # type: ignore[arg-type]
    return plain, replace(
        plain, ranks=ranks, sequence_parallel=sequence_parallel, zero_stage=zero_stage, micro_batch_tokens=2 * LONGEST
    )


def _checkpointed(pair: tuple[Layout, Layout]) -> tuple[Layout, Layout]:
    return pair[0], replace(pair[1], gradient_checkpointing=True)


#: The model has 4 heads and 2 key-value heads; the mixed model has windows in some layers.
SHARED = (
    _shared(2, 2, 0, algorithm="sapo"),
    _shared(2, 2, 0, algorithm="dppo"),
    _shared(2, 2, 1, algorithm="cispo"),
    _shared(2, 2, 2, algorithm="bapo"),
    _shared(2, 2, 2, algorithm="gspo"),
    _checkpointed(_shared(2, 2, 3, algorithm="kl loss", batches=2, lora=True)),
    _shared(2, 2, 2, algorithm="rollout"),
    _shared(2, 2, 2, model="mixed"),
    _checkpointed(_shared(2, 2, 3)),
    _shared(4, 4, 2),
    _checkpointed(_shared(4, 4, 3, algorithm="gspo")),
    _shared(4, 2, 3, algorithm="kl reward", batches=2),
    _shared(4, 2, 2, algorithm="bapo"),
    _shared(4, 4, 2, algorithm="dac"),
)
ALL_PAIRS = PAIRS + SHARED
PAIRED = tuple(layout for pair in ALL_PAIRS for layout in pair)
OLD_BY_THE_FIRST_FORWARD = (OTHERS[0], OTHERS[13], BFLOAT16[2], *(pair[1] for pair in PAIRS[1:5]))
OLD_BEFOREHAND = tuple(replace(layout, old_beforehand=True) for layout in OLD_BY_THE_FIRST_FORWARD)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("layouts")
    make_model(folder / "model")
    make_model(folder / "tied", tied=True)
    save_mixed(folder / "mixed")
    layouts = [REFERENCE, *OTHERS, *BFLOAT16, *PAIRED, *OLD_BEFOREHAND]
    return train(folder, list(dict.fromkeys(layouts)))


@pytest.mark.parametrize("layout", OTHERS, ids=lambda layout: layout.name)
def test_parameters_change_alike_in_every_layout(trained: Trained, layout: Layout) -> None:
    assert np.linalg.norm(trained.change(REFERENCE)) > 0.05
    assert trained.distance(layout, REFERENCE) <= TOLERANCE


def test_the_update_is_that_of_a_plain_training_loop(trained: Trained) -> None:
    config, groups = layout_config(trained.folder, REFERENCE), make_groups()
    batch = lay_out_batch(0, score(groups), mini_batches=4, ranks=1, micro_batch_tokens=1)
    change = plain_update(trained.folder / "model", config, batch, {group.group_id: group for group in groups})
    flat = np.concatenate([change[name].ravel().astype(np.float64) for name in sorted(change)])
    assert relative_distance(trained.change(REFERENCE), flat) <= TOLERANCE


@pytest.mark.parametrize("layout", BFLOAT16, ids=lambda layout: layout.name)
def test_bfloat16_trains_alike_at_every_zero_stage(trained: Trained, layout: Layout) -> None:
    # Weights of 8 bits: where the float32 master lies between two of them, its last bit decides.
    assert trained.distance(layout, BFLOAT16[2]) <= 0.03
    # AdamW started by a step on zero gradients would be 0.19 away.
    assert trained.distance(layout, REFERENCE) <= 0.12


@pytest.mark.parametrize("pair", ALL_PAIRS, ids=lambda pair: pair[1].name)
def test_every_part_of_the_objective_is_free_of_the_layout(trained: Trained, pair: tuple[Layout, Layout]) -> None:
    reference, layout = pair
    assert trained.distance(layout, reference) <= TOLERANCE
    # Per token: one of the objectives adds up the tokens of a sequence.
    tokens = LONGEST if ALGORITHMS[layout.algorithm].get("aggregate") == "seq-mean-token-sum" else 1
    assert trained.metrics(layout)["learner/loss"] == pytest.approx(
        trained.metrics(reference)["learner/loss"], abs=1e-6 * tokens
    )


@pytest.mark.parametrize(
    ("layout", "beforehand"),
    list(zip(OLD_BY_THE_FIRST_FORWARD, OLD_BEFOREHAND, strict=True)),
    ids=lambda layout: layout.name,
)
def test_the_first_forward_gives_the_bits_of_a_forward_for_old_logprobs_alone(
    trained: Trained, layout: Layout, beforehand: Layout
) -> None:
    assert np.array_equal(trained.change(layout), trained.change(beforehand))
    wanted, metrics = trained.metrics(beforehand), trained.metrics(layout)
    assert {**metrics, "learner/tokens_per_s": 0} == {**wanted, "learner/tokens_per_s": 0}


@pytest.mark.parametrize("layout", [*OTHERS, *PAIRED], ids=lambda one: one.name)
def test_gradients_of_a_separable_loss_are_taken_in_forward(trained: Trained, layout: Layout) -> None:
    # A response's ratio mixes its tokens.
    assert bool(trained.fused_losses(layout)) == (layout.algorithm != "gspo")


def test_the_reference_policy_is_loaded_only_where_the_kl_needs_it(trained: Trained) -> None:
    layouts = [REFERENCE, *OTHERS, *PAIRED]
    for layout in layouts:
        assert trained.has_reference(layout) == layout.algorithm.startswith("kl"), layout.name


@pytest.mark.parametrize("algorithm", sorted({one.algorithm for one in PAIRED} - {"maspo", "kl loss", "kl reward"}))
def test_variants_do_differ(trained: Trained, algorithm: str) -> None:
    assert trained.distance(Layout(ranks=1, zero_stage=0, micro_batch_tokens=1, algorithm=algorithm), REFERENCE) > 1e-3


@pytest.mark.parametrize(
    ("layout", "reference"),
    [*((other, REFERENCE) for other in OTHERS), *(pair[::-1] for pair in ALL_PAIRS)],
    ids=lambda layout: layout.name,
)
def test_metrics_are_free_of_the_layout(trained: Trained, layout: Layout, reference: Layout) -> None:
    wanted, metrics = trained.metrics(reference), trained.metrics(layout)
    assert metrics.keys() == wanted.keys()
    for name in wanted.keys() - {"learner/tokens_per_s"}:
        # Means of log-ratios, which cancel to near zero, carry the absolute error of a logprob.
        assert metrics[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-6), name


def test_tied_tensors_are_exported_once(trained: Trained) -> None:
    tied, untied = trained.parameter_names(PAIRS[0][1]), trained.parameter_names(REFERENCE)
    assert set(untied) - set(tied) == {"lm_head.weight"}
    assert len(tied) == len(set(tied))
