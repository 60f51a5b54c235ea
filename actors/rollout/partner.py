"""Makes what the responses of a worker converse with; imported by workers with an environment only."""

from __future__ import annotations

import logging

from actors.rollout.conversation import Partner
from maspo_dist.config import EvaluationConfig, TrainConfig
from maspo_dist.data.chat import ChatTemplate
from maspo_dist.data.conversation import continuation
from maspo_dist.environments.host import ForkedEnvironments
from maspo_dist.models.facts import read_tokenizer
from maspo_dist.reward.unverifiable import UnverifiableMonitor

logger = logging.getLogger(__name__)


async def open_partner(config: TrainConfig | EvaluationConfig) -> Partner:
    """Reads the tokenizer and starts the host; end it by `Partner.host.aclose`.

    Raises ModelError when the model's chat template cannot continue a conversation, and what the host's start raises.
    """
    environment, cluster = config.environment, config.cluster
    assert environment is not None
    tokenizer, end_ids = read_tokenizer(config.model)
    template = ChatTemplate(tokenizer, config.data)
    how, note = continuation(template, end_ids, environment.role, environment.max_observation_tokens)
    if note is not None:
        logger.warning(note)
    tags = config.reward.reasoning_tags
    host = ForkedEnvironments(environment, cluster.generate_timeout_s, cluster.start_timeout_s, tags)
    await host.start()
    return Partner(config=environment, host=host, continuation=how, monitor=UnverifiableMonitor(config.reward))
