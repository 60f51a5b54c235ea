"""The way of weights from the learner to the rollout engines.

transport       the transports by name; a new one is added here
object_store    the transport through Ray's object store
collective      the transport by broadcast, from learner rank 0 to the processes of all engines
group           the process group of a broadcast, and how its members fail together
ipc             the transport through memory of a device that learner and engine share
shared_devices  what learner ranks say of that memory
shared_memory   memory of a worker that its engine's processes map
layout          tensors as bytes: entries, sizes, and where they start
fingerprint     the hash that shows whether all bytes arrived
probes          token sequences whose logprobs prove a publish
"""
