"""The processes of a standalone evaluation (`maspo-dist eval`).

sampling  samples problems on any pool of workers; seeds and rows
cluster   places, starts and ends engines and verifier
worker    calls one worker, whose problems have no deadline while it samples
actor     one engine, and the scoring of its responses
"""
