"""Verifiers that need neither mathematics nor a sandbox.

matching    exact, regex, multiple_choice, json, format: compare text
gym         reasoning_gym: procedural tasks with their own scorers
remote      http(s)://…: a verifier on another machine
function    python:module:function: a reward of the user's own
"""
