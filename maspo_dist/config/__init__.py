"""The configuration tree. Every field is documented where it is declared.

sections.py   TrainConfig and its sections
algorithm.py  the algorithm section: advantages, corrections, regularisers
losses.py     its losses
section.py    the base of every section
verifier.py   the reward section
cluster.py    the cluster section
evaluation.py EvaluationConfig, of `maspo-dist eval`
compare.py    CompareConfig, of `maspo-dist compare`
loading.py    YAML and dotted overrides → TrainConfig
differences.py  which changes matter when a checkpoint is resumed
"""

from maspo_dist.config.algorithm import (
    AdvantageConfig,
    AggregateMode,
    AlgorithmConfig,
    CorrectionConfig,
    DynamicSamplingConfig,
    EntropyAdvantage,
    KlConfig,
    OverlongConfig,
)
from maspo_dist.config.cluster import ClusterConfig
from maspo_dist.config.compare import CompareConfig, parse_seeds
from maspo_dist.config.differences import ConfigDifference, config_differences
from maspo_dist.config.evaluation import (
    EvaluationConfig,
    EvaluationDataConfig,
    EvaluationEnginesConfig,
    EvaluationSamplingConfig,
)
from maspo_dist.config.loading import build_config, dump_config, load_config, read_tree
from maspo_dist.config.losses import (
    BapoLoss,
    CispoLoss,
    ClipLoss,
    DacLoss,
    GspoLoss,
    LossConfig,
    MaspoLoss,
    SapoLoss,
)
from maspo_dist.config.sections import (
    CheckpointConfig,
    DataConfig,
    HeldOutConfig,
    LearnerConfig,
    LoggingConfig,
    ModelConfig,
    PromptConfig,
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
    "CompareConfig",
    "ConfigDifference",
    "CorrectionConfig",
    "DacLoss",
    "DataConfig",
    "DynamicSamplingConfig",
    "EntropyAdvantage",
    "EvaluationConfig",
    "EvaluationDataConfig",
    "EvaluationEnginesConfig",
    "EvaluationSamplingConfig",
    "GspoLoss",
    "HeldOutConfig",
    "KlConfig",
    "LearnerConfig",
    "LoggingConfig",
    "LossConfig",
    "MaspoLoss",
    "ModelConfig",
    "OverlongConfig",
    "PromptConfig",
    "RolloutConfig",
    "RunConfig",
    "SapoLoss",
    "StragglerConfig",
    "SyncConfig",
    "TrainConfig",
    "VerifierConfig",
    "WandbConfig",
    "WorkerRange",
    "build_config",
    "config_differences",
    "dump_config",
    "load_config",
    "parse_seeds",
    "read_tree",
]
