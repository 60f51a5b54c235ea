"""The configuration tree. Every key is documented where it is declared, and states what a change of it changes.

train.py       TrainConfig: the sections of a run, and what must hold between them
evaluation.py  section evaluation; EvaluationConfig, of `maspo-dist eval`
compare.py     CompareConfig, of `maspo-dist compare`
section.py     the base of every section, and the effects that keys state
run.py         sections run, checkpoint, logging
model.py       section model
data.py        section data
rollout.py     sections rollout, sync
verifier.py    section reward
reasoning.py   the tags around reasoning blocks
environment.py section environment
algorithm.py   section algorithm: advantages, corrections, regularisers
losses.py      the losses of section algorithm
learner.py     section learner
cluster.py     section cluster
slurm.py       SlurmConfig, of `maspo-dist submit --slurm`
loading.py     YAML and dotted overrides → a validated configuration
keys.py        dotted keys, their effects, and what changed since a checkpoint
extension.py   `python:module:Name`: parts of the user's own

A name is imported when it is first used: a verifier process starts in half the time without the other sections.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maspo_dist.config.algorithm import AggregateMode, AlgorithmConfig, CorrectionConfig, EntropyAdvantage
    from maspo_dist.config.cluster import ClusterConfig
    from maspo_dist.config.compare import CompareConfig, parse_seeds
    from maspo_dist.config.data import DataConfig, PromptConfig
    from maspo_dist.config.environment import EnvironmentConfig
    from maspo_dist.config.evaluation import EvaluationConfig
    from maspo_dist.config.keys import resume_changes
    from maspo_dist.config.learner import LearnerConfig, LoraConfig
    from maspo_dist.config.loading import build_config, dump_config, load_config, read_tree
    from maspo_dist.config.losses import (
        BapoLoss,
        CispoLoss,
        ClipLoss,
        DacLoss,
        DppoLoss,
        GspoLoss,
        LossConfig,
        MaspoLoss,
        SapoLoss,
    )
    from maspo_dist.config.model import ModelConfig
    from maspo_dist.config.rollout import WorkerRange
    from maspo_dist.config.run import CheckpointConfig, LoggingConfig, WandbConfig
    from maspo_dist.config.train import TrainConfig
    from maspo_dist.config.verifier import VerifierConfig

__all__ = ["CompareConfig", "EvaluationConfig", "TrainConfig"]
__all__ += ["build_config", "dump_config", "load_config", "parse_seeds", "read_tree", "resume_changes"]
__all__ += ["AggregateMode", "AlgorithmConfig", "CheckpointConfig", "ClusterConfig", "CorrectionConfig", "DataConfig"]
__all__ += ["EntropyAdvantage", "EnvironmentConfig", "LearnerConfig", "LoggingConfig", "LoraConfig", "ModelConfig"]
__all__ += ["PromptConfig", "VerifierConfig", "WandbConfig", "WorkerRange"]
__all__ += ["BapoLoss", "CispoLoss", "ClipLoss", "DacLoss", "DppoLoss", "GspoLoss", "LossConfig", "MaspoLoss"]
__all__ += ["SapoLoss"]

#: The modules of these names.
_MODULES: tuple[str, ...] = ("verifier", "train", "evaluation", "compare", "algorithm", "cluster", "data", "model")
_MODULES += ("environment", "keys", "learner", "loading", "losses", "rollout", "run")


def __getattr__(name: str) -> object:
    if name in __all__:
        for module in _MODULES:
            if (found := vars(import_module(f"maspo_dist.config.{module}")).get(name)) is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module maspo_dist.config has no attribute {name}")
