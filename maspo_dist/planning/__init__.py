"""What is decided and checked before any process starts.

preflight.py   model, tokenizer and data of a run; raises every mistake that is visible without a process
devices.py     whether a node can run on the device of the run
doctor.py      `maspo-dist doctor`: what is wrong with the facts of each node
remedies.py    what to do about failures of the machine
object_store.py  what a publish needs of Ray's object store
placement.py   the processes of a run, their CPUs, GPUs and memory
transport.py   how weights travel where `sync.transport` is auto
accelerators.py  what GPUs can do at most
environment.py what `check` shows of the environment of a run
slurm/         the job of a run under Slurm
check.py       `maspo-dist check`: prints what would run and starts nothing
forecast.py    seconds per phase of a step on GPUs, from the shape of the model
plan.py        `maspo-dist plan`: prints the forecast
"""
