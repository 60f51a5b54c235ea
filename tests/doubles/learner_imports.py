"""Imports what a learner rank needs. The fork server of `doubles.ranks` imports this module once for all its ranks."""

import torch
import transformers.models.auto.modeling_auto
import transformers.models.qwen3.modeling_qwen3  # noqa: F401

import maspo_dist.data.batching  # noqa: F401
from actors.engines.deepspeed.config import import_deepspeed

import_deepspeed(torch.device("cpu"))
