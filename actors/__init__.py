"""The application on Ray: one folder per kind of process.

cli          the command line                          commands    commands that need Ray or an engine
processes    places, starts and ends every process     interfaces  the Protocols between the processes
controller   the training loop                         rollout     workers that generate, and their pool
learner      DeepSpeed ranks                           verifier    the pool of verifier processes as an actor
evaluation   engines of a standalone evaluation        weights     how weights travel, and their fingerprint
engines      vLLM and DeepSpeed                        ray         connection, placement groups, waits, Ray's errors
warm         processes that one run leaves to the next bench       what `maspo-dist bench` measures
"""
