"""The job of a run under Slurm.

script.py  the batch script: its head, written for a run and a cluster
batch.sh   the body of the batch script: Ray, the run, and whether the job goes on
node.sh    Ray on one node of the job
"""

from maspo_dist.planning.slurm.script import (
    JobFiles,
    batch_script,
    cores_of,
    gpus_of,
    node_script,
    require_submittable,
)

__all__ = ["JobFiles", "batch_script", "cores_of", "gpus_of", "node_script", "require_submittable"]
