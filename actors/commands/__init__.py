"""The commands that need Ray or an engine, one module each; `actors.cli` calls them.

training    a run, from configuration to exit
comparison  the command line of comparisons
lane        runs one after another in one process, for a comparison
evaluation  a standalone evaluation
export      a checkpoint as a Hugging Face folder; adapter_export writes its adapter alone
replay      one recorded step, computed again
data        the command lines of what writes data: the demo, problems of reasoning_gym and of OpenEnv servers
submit      a run as a job of Slurm
scaling     another number of rollout workers for a live run
doctor      what is wrong with this machine, or with each node of a cluster; node_facts gathers what it judges
backends    refuses a rollout engine or weight transport that cannot serve
exit_codes  what a command prints for an error
"""
