#!/usr/bin/env bash
# Ray on this node, with a token: deploy/ray/start_node.sh on the head, deploy/ray/start_node.sh HEAD_ADDRESS on others.
# `ray stop` ends it. Other nodes need the head's ~/.ray/auth_token: it lets its holder run code on the cluster.
set -euo pipefail

address=${1:-}
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
# The programs of the environment beside this clone, unless another environment is active.
here=$(cd "$(dirname "$0")/../.." && pwd)
command -v ray > /dev/null || PATH=$here/.venv/bin:$PATH
if ! command -v ray > /dev/null; then
    echo "error: ray is not found; call make setup or make setup-gpu first, or activate an environment" >&2
    exit 2
fi
export RAY_AUTH_MODE=token
# A job that is asked to stop saves first; Ray would kill it after 3 s.
export RAY_JOB_STOP_WAIT_TIME_S=${RAY_JOB_STOP_WAIT_TIME_S:-600}
ulimit -n 65536 2> /dev/null || echo "note: the limit of open files stays at $(ulimit -n)" >&2

if [ -z "$address" ]; then
    [ -s "$token" ] || ray get-auth-token --generate > /dev/null
    chmod 600 "$token"
    ray start --head --port=6379 --disable-usage-stats
elif [ ! -s "$token" ]; then
    echo "error: there is no token at $token; copy the head's: scp ${address%%:*}:.ray/auth_token $token" >&2
    exit 2
else
    case $address in *:*) ;; *) address=$address:6379 ;; esac
    ray start --address="$address" --disable-usage-stats
fi
