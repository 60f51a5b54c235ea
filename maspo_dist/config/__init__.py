"""The configuration tree. Every field is documented where it is declared.

sections.py   TrainConfig and its sections
algorithm.py  the algorithm section: losses, advantages, corrections, regularisers
verifier.py   the reward section
loading.py    YAML and dotted overrides → TrainConfig
differences.py  which changes matter when a checkpoint is resumed
"""

from maspo_dist.config.algorithm import (
    AdvantageConfig,
    AggregateMode,
    AlgorithmConfig,
    BapoLoss,
    CispoLoss,
    ClipLoss,
    CorrectionConfig,
    DacLoss,
    DynamicSamplingConfig,
    EntropyAdvantage,
    GspoLoss,
    KlConfig,
    LossConfig,
    MaspoLoss,
    OverlongConfig,
    SapoLoss,
)
from maspo_dist.config.differences import ConfigDifference, config_differences
from maspo_dist.config.loading import dump_config, load_config
from maspo_dist.config.sections import (
    CheckpointConfig,
    ClusterConfig,
    DataConfig,
    EvaluationConfig,
    LearnerConfig,
    LoggingConfig,
    ModelConfig,
    RolloutConfig,
    RunConfig,
    StragglerConfig,
    SyncConfig,
    TrainConfig,
    WandbConfig,
    WorkerRange,
)
from maspo_dist.config.verifier import VerifierConfig

__all__ = [
    "AdvantageConfig",
    "AggregateMode",
    "AlgorithmConfig",
    "BapoLoss",
    "CheckpointConfig",
    "CispoLoss",
    "ClipLoss",
    "ClusterConfig",
    "ConfigDifference",
    "CorrectionConfig",
    "DacLoss",
    "DataConfig",
    "DynamicSamplingConfig",
    "EntropyAdvantage",
    "EvaluationConfig",
    "GspoLoss",
    "KlConfig",
    "LearnerConfig",
    "LoggingConfig",
    "LossConfig",
    "MaspoLoss",
    "ModelConfig",
    "OverlongConfig",
    "RolloutConfig",
    "RunConfig",
    "SapoLoss",
    "StragglerConfig",
    "SyncConfig",
    "TrainConfig",
    "VerifierConfig",
    "WandbConfig",
    "WorkerRange",
    "config_differences",
    "dump_config",
    "load_config",
]
