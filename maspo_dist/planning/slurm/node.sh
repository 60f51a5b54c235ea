#!/bin/bash
# Ray on one node of a job: `node.sh head`, or `node.sh ADDRESS` to join. Ends at SIGUSR1, with Ray, or with the job.
#
#   srun ── task (this script) ── setsid ── keeper ── ray start --block
#
# At SIGTERM Ray must stay while the run saves. So Ray is neither in the process group of the task nor a child of it:
# where Slurm tracks processes without cgroups, it signals all of these. The keeper ends Ray when the task is gone.
say() { printf '%(%T)T %s: %s\n' -1 "$SLURMD_NODENAME" "$*"; }
# within COMMAND…: becomes the command, in the container if the cluster's file names one. It ends its shell.
within() { eval "exec $MASPO_CONTAINER \"\$@\""; }
# alive PID: whether the process lives. One that has ended stays visible until it is reaped, and the first process of a
# container may never reap an orphan such as the keeper.
alive() {
  local stat
  stat=$(cat "/proc/$1/stat" 2> /dev/null) && [[ ${stat##*) } != Z* ]]
}
over=''
trap 'over=1' USR1

# keep TASK ROLE COMMAND…: runs the command until SIGUSR1, or until the task is gone. Ray gives a node 30 s to start,
# which a busy node may not meet, and a node may lose its Ray: then the command is started again. A head that was up is
# not, since the run is lost with it.
keep() {
  local task=$1 role=$2 ray left
  shift 2
  for ((left = 2; ; left--)); do
    SECONDS=0
    within "$@" &
    ray=$!
    while [ -z "$over" ] && alive "$task" && alive "$ray"; do sleep 0.5; done
    if [ -n "$over" ] || ! alive "$task"; then break; fi
    say "Ray ended after $SECONDS s, starts left: $left"
    [ "$left" -gt 0 ] || break
    [ "$role" = head ] && [ -s "$MASPO_TMP/r/ray_current_cluster" ] && break
  done
  kill "$ray" 2> /dev/null
  for _ in {1..40}; do
    alive "$ray" || return 0
    sleep 0.25
  done
  kill -KILL "$ray" 2> /dev/null
}

if [ "$1" = keep ]; then
  shift
  keep "$@"
  exit
fi

role=$1
trap 'say "SIGTERM: Ray stays while the run saves"; [ "$role" != head ] || kill -TERM "$MASPO_BATCH"' TERM
eval "$MASPO_SETUP"
ulimit -n 65536 2> /dev/null || ulimit -n "$(ulimit -Hn)"
if [ "$(hostname)" != "$MASPO_HOST" ]; then
  for old in "${MASPO_TMP%.*}".*; do [ ! -O "$old" ] || rm -rf "$old"; done
fi
mkdir -m 700 "$MASPO_TMP" 2> /dev/null
if [ ! -O "$MASPO_TMP" ]; then
  say "$MASPO_TMP cannot be made: set scratch in the cluster's file to a folder on each node's own disk"
  exit 1
fi
export TMPDIR=$MASPO_TMP
# Two jobs may share a node, so every port is one that is free.
options=(--block --disable-usage-stats --num-cpus="$MASPO_CPUS" --num-gpus="$MASPO_GPUS" --node-manager-port=0
  --object-manager-port=0 --metrics-export-port=0 --runtime-env-agent-port=0 --dashboard-agent-listen-port=0
  --dashboard-agent-grpc-port=0 --min-worker-port=0 --max-worker-port=0)
[ -z "$MASPO_STORE" ] || options+=(--object-store-memory="$MASPO_STORE")
if [ "$role" = head ]; then
  # Ray makes its folder readable by all, so it lies in a folder of mode 700.
  options+=(--head --port=0 --include-dashboard=false --temp-dir="$MASPO_TMP/r"
    --ray-client-server-port="$((20000 + SLURM_JOB_ID % 10000))")
else
  options+=(--address="$role")
fi
if [ -n "$MASPO_INTERFACE" ]; then
  address=$( (within python - "$MASPO_INTERFACE") << 'PYTHON'
import socket
import sys

import psutil

addresses = psutil.net_if_addrs().get(sys.argv[1], ())
print(*[found.address for found in addresses if found.family == socket.AF_INET][:1])
PYTHON
  )
  if [ -z "$address" ]; then
    say "$MASPO_INTERFACE has no IPv4 address here: correct network_interface in the cluster's file"
    exit 1
  fi
  options+=(--node-ip-address="$address")
fi
log=$MASPO_LOGS/$SLURMD_NODENAME.log
(
  setsid bash "$0" keep $$ "$role" ray start "${options[@]}" > "$log" 2>&1 &
  echo $! > "$MASPO_TMP/$SLURMD_NODENAME.pid"
)
keeper=$(< "$MASPO_TMP/$SLURMD_NODENAME.pid")
while [ -z "$over" ] && alive "$keeper"; do
  sleep 1 &
  wait $!
done
while alive "$keeper"; do
  kill -USR1 "$keeper" 2> /dev/null
  sleep 0.2
done
[ "$(hostname)" = "$MASPO_HOST" ] || rm -rf "$MASPO_TMP"
[ -n "$over" ] || {
  say "Ray ended by itself: see $log"
  exit 1
}
