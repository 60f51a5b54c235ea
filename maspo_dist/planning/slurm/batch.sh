# shellcheck shell=bash
# The body of the batch script: Ray on every node of the job, then the run, then what is to happen next.
# The head of the script sets MASPO_FILES, MASPO_RUN, MASPO_SCRATCH, MASPO_SETUP, MASPO_CONTAINER, MASPO_INTERFACE,
# MASPO_CPUS, MASPO_GPUS, MASPO_GPU_OPTION and MASPO_STORE.
#
#   batch script ── srun ── node.sh head        Ray's head, on the node of this script
#        │       └─ srun ── node.sh ADDRESS     Ray on each other node
#        └─ maspo-dist train                    in this script, on the node of the head
#
# SIGTERM comes before the time limit, at pre-emption (to the steps alone: node.sh hands it on) and at scancel. The run
# saves and exits with 143. The job goes back into the queue unless it was cancelled.

# The traps come first: a signal during the start must end the job in order too.
again='' stop='' run='' steps=()
say() { printf '%(%T)T maspo: %s\n' -1 "$*"; }
# shellcheck disable=SC2329  # called by the traps
stop() {
  [ -n "$stop" ] && return
  stop=1
  say "SIGTERM: the run saves"
  [ -z "$run" ] || kill -TERM "$run"
}
trap 'again=1; stop' TERM
trap stop INT

# within COMMAND…: becomes the command, in the container if the cluster's file names one. It ends its shell.
within() { eval "exec $MASPO_CONTAINER \"\$@\""; }

job_state() {
  local state
  for _ in 1 2 3 4 5; do
    state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) && break
    sleep 1
  done
  printf %s "$state"
}

lost_step() {
  local step
  for step in "${steps[@]}"; do kill -0 "$step" 2> /dev/null || return 0; done
  return 1
}

# end_steps: ends Ray on all nodes. A signal that comes meanwhile ends `wait` early, and a shell that runs the trap of one
# signal may miss another one: so the signal is repeated until the steps have ended.
end_steps() {
  local step left=1
  while [ -n "$left" ]; do
    left=''
    for step in "${steps[@]}"; do kill -USR1 "$step" 2> /dev/null && left=1; done
    sleep 0.5 &
    wait $!
  done
}

# end CODE: ends Ray, and decides whether the job goes on. Its state is RUNNING if its time is nearly up or if it was
# asked to stop; it is COMPLETING after scancel, and then it must not come back. Slurm itself puts a pre-empted job back.
end() {
  local code=$1 lost='' saved='' next='' state
  if lost_step; then lost=1; fi
  end_steps
  saved=$(find "$MASPO_RUN/checkpoints" -maxdepth 1 -name 'step-*' -newer "$MASPO_LOGS/started" 2> /dev/null)
  rm -rf "$MASPO_TMP"
  state=$(job_state)
  say "the run ended with $code, the job is $state"
  if [ "$code" = 143 ] && [ -n "$again" ]; then
    next=1
    if [ -z "$saved" ] && [ "$state" = RUNNING ]; then
      say "this job saved no step, so that the next one would not get further: ask for more time"
      next=''
    fi
  elif [ "$code" = 1 ] && [ -n "$lost" ]; then
    # A run that failed together with Ray is worth another try. A run that failed alone would fail again.
    [ "${SLURM_RESTART_COUNT:-0}" -lt 5 ] && next=1
  fi
  if [ -n "$next" ] && [ "$state" = RUNNING ]; then
    say "the job goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$code"
}

# fail SENTENCE: ends the job, with 143 if it was asked to stop in the meantime.
fail() {
  [ -z "$stop" ] || end 143
  say "$*"
  end 1
}

# wait_for SECONDS WHAT COMMAND…: until the command succeeds.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ -z "$stop" ] || end 143
    ! lost_step || fail "Ray does not start: see $MASPO_LOGS"
    [ "$SECONDS" -lt "$deadline" ] || fail "no $what within the deadline: see $MASPO_LOGS"
    sleep 0.5 &
    wait $!
  done
}

on_nodes() {
  local gpus=()
  [ -z "$MASPO_GPU_OPTION" ] || gpus=("$MASPO_GPU_OPTION")
  srun --export=ALL --overlap --kill-on-bad-exit=0 --mpi=none --cpus-per-task="$MASPO_CPUS" --ntasks-per-node=1 \
    "${gpus[@]}" "$@" &
  steps+=($!)
}

# shellcheck disable=SC2329  # called by wait_for
all_nodes() {
  (within python - "$SLURM_JOB_NUM_NODES") << 'PYTHON'
import logging
import sys

import ray

ray.init(logging_level=logging.ERROR, log_to_driver=False)
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]))
PYTHON
}

start=$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
export MASPO_TMP=$MASPO_SCRATCH/maspo-$start MASPO_LOGS=$MASPO_FILES/ray-$start MASPO_BATCH=$$
MASPO_HOST=$(hostname)
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
# Ray's own drain at SIGTERM would take the time that the save needs.
export MASPO_HOST RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 RAY_USAGE_STATS_ENABLED=0
unset RAY_ADDRESS RAY_AUTH_TOKEN_PATH
if [ -n "$MASPO_INTERFACE" ]; then
  export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$MASPO_INTERFACE} GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$MASPO_INTERFACE}
fi
eval "$MASPO_SETUP"
if ! (within bash -c 'command -v maspo-dist') > /dev/null; then
  say "maspo-dist is not found on $SLURMD_NODENAME: correct setup or container in the cluster's file"
  exit 2
fi
mkdir -p "$MASPO_LOGS"
# A folder of an earlier start of this job lies here if the job was killed. Another user's folder is refused.
for old in "$MASPO_SCRATCH/maspo-$SLURM_JOB_ID".*; do [ ! -O "$old" ] || rm -rf "$old"; done
if ! mkdir -m 700 "$MASPO_TMP"; then
  say "$MASPO_TMP cannot be made: set scratch in the cluster's file to a folder on each node's own disk"
  exit 2
fi
[ -z "$stop" ] || end 143

say "start $start on $SLURM_JOB_NODELIST, head $SLURMD_NODENAME"
on_nodes --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" bash "$MASPO_FILES/node.sh" head
# The address is the one that Ray itself wrote; a node may have several.
wait_for 300 "head of Ray" test -s "$MASPO_TMP/r/ray_current_cluster"
RAY_ADDRESS=$(< "$MASPO_TMP/r/ray_current_cluster")
export RAY_ADDRESS
others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" != 0 ] && [ -z "$MASPO_INTERFACE" ] && [[ $RAY_ADDRESS == 127.* ]]; then
  fail "Ray's head took $RAY_ADDRESS, which other nodes cannot reach: set network_interface in the cluster's file"
fi
if [ "$others" != 0 ]; then
  on_nodes --nodes="$others" --ntasks="$others" --exclude="$SLURMD_NODENAME" bash "$MASPO_FILES/node.sh" "$RAY_ADDRESS"
fi
wait_for 600 "Ray on all $SLURM_JOB_NUM_NODES nodes" all_nodes
say "Ray runs on all nodes at $RAY_ADDRESS"

resume=()
[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || resume=(checkpoint.resume=auto)
# Checkpoints that are newer than this file are this job's own.
: > "$MASPO_LOGS/started"
within maspo-dist train "$MASPO_CONFIG" "${resume[@]}" &
run=$!
[ -z "$stop" ] || kill -TERM "$run"
# A signal ends `wait` early.
while :; do
  wait "$run"
  code=$?
  kill -0 "$run" 2> /dev/null || break
done
end "$code"
