"""Rollout workers and the pool that dispatches groups to them.

pool         dispatches requests, publishes weights, opens and closes slots
growth       opens slots where the number of workers is a range
direct       publishes in which engines get weights straight from the learner, and what they have in common
broadcasts   publishes weights to all engines at once, and recovers from engines that fail meanwhile
by_node      publishes weights that lie in the object store
ipc          publishes to engines that read the learners' memory
worker_slot  one slot: starts its worker, watches it, and replaces it when it is lost
actor        one worker: its engine, the scoring of responses, the proof of weights; and its handle
conversation a response from its prompt to its verdict: one turn, or a conversation with an environment
partner      makes what responses converse with
proof        what the proof compares, when, and what it says when it fails
"""
