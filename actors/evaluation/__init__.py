"""The processes of a standalone evaluation (`maspo-dist eval`).

sampling  samples problems on any pool of workers; seeds and rows
cluster   places, starts and ends engines and verifier
actor     one engine, and the scoring of its responses
"""
