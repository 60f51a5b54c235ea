#!/usr/bin/env bash
# A private Slurm on this machine, as root and without systemd: deploy/slurm/trial_up.sh FOLDER [NODES] [CPUS]
# Debian: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
# Partition low is pre-empted by partition high. `export SLURM_CONF=FOLDER/slurm.conf` makes sbatch and squeue use it;
# deploy/slurm/trial_down.sh FOLDER ends it.
set -euo pipefail
umask 022

folder=$1
nodes=${2:-2}
cpus=${3:-4}
port=${SLURM_BASE_PORT:-17000}
host=$(hostname -s)

if [ "$(id -u)" != 0 ]; then
    echo "error: Slurm starts jobs as other users, so run this as root" >&2
    exit 2
fi
for program in munged slurmctld slurmd sbatch; do
    if ! command -v "$program" > /dev/null; then
        echo "error: $program is missing; install the packages slurmctld, slurmd, slurm-client and munge" >&2
        exit 2
    fi
done
# Where the freezer is mounted, Slurm finds every process of a job by its cgroup; elsewhere by its ancestors.
track=linuxproc
[ ! -d /sys/fs/cgroup/freezer ] || track=cgroup

mkdir -p "$folder"/{state,spool,log,munge}
chmod 711 "$folder/munge"
(umask 077 && head -c 1024 /dev/urandom > "$folder/munge/key")
{
    cat << CONF
ClusterName=trial
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd-%n
ProctrackType=proctrack/$track
TaskPlugin=task/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobRequeue=1
SlurmdTimeout=15
KillWait=30
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
CONF
    for i in $(seq "$nodes"); do
        echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=$cpus RealMemory=4000"
    done
    echo "PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 MaxTime=INFINITE"
    echo "PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE"
} > "$folder/slurm.conf"
if [ "$track" = cgroup ]; then
    printf 'CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\n' > "$folder/cgroup.conf"
fi

export SLURM_CONF=$folder/slurm.conf
: > "$folder/pids"
start() {
    setsid "$@" < /dev/null >> "$folder/log/daemons" 2>&1 &
    echo $! >> "$folder/pids"
}
start munged --foreground --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/log/munged" --seed-file="$folder/munge/seed"
for _ in {1..100}; do
    [ ! -S "$folder/munge/socket" ] || break
    sleep 0.1
done
start slurmctld -D -f "$folder/slurm.conf"
for i in $(seq "$nodes"); do start slurmd -D -f "$folder/slurm.conf" -N "n$i"; done
for _ in {1..150}; do
    if [ "$(sinfo -h -p low -t idle -o %D 2> /dev/null)" = "$nodes" ]; then
        sinfo
        exit 0
    fi
    sleep 0.2
done
echo "error: Slurm does not start; the last lines of its logs:" >&2
tail -n 5 "$folder"/log/* >&2
exit 1
