#!/usr/bin/env bash
# Ends the Slurm of deploy/slurm/trial_up.sh FOLDER: its daemons, last started first.
set -uo pipefail

mapfile -t pids < <(tac "$1/pids")
for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null; done
for pid in "${pids[@]}"; do
    for _ in {1..50}; do
        kill -0 "$pid" 2> /dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2> /dev/null
done
exit 0
