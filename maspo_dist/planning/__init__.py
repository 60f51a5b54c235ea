"""What is decided and checked before any process starts.

preflight.py   model, tokenizer and data of a run; raises every mistake that is visible without a process
placement.py   the processes of a run, their CPUs, GPUs and memory
check.py       `maspo-dist check`: prints the plan and starts nothing
"""
