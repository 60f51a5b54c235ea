"""The way of weights from the learner to the rollout engines.

transport      the transports by name; a new one is added here
object_store   the transport through Ray's object store
shared_memory  memory of a worker that its engine's processes map
fingerprint    the hash that shows whether all bytes arrived
probes         token sequences whose logprobs prove a publish
"""
