"""The processes of a standalone evaluation (`maspo-dist eval`).

cluster  places, starts and ends engines and verifier
actor    one engine, and the scoring of its responses
"""
