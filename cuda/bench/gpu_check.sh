#!/usr/bin/env bash
# Builds the kernels, checks them against their references and times them, and measures hybrid parallelism over NCCL, on
# a machine with GPUs.
#
#   cuda/bench/gpu_check.sh [python]     python: one with the project's requirements
#
# Every line of the result is printed; the last says whether all of it was right.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${1:-$root/.venv/bin/python}

if ! command -v nvidia-smi > /dev/null; then
  echo "no NVIDIA GPU here: nvidia-smi is not there. On a CPU the tests run these kernels: make test" >&2
  exit 1
fi
echo "== device"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
"$python" - <<'PY'
import sys
import torch

if not torch.cuda.is_available():
    sys.exit("torch sees no CUDA device")
print("torch", torch.__version__, "CUDA", torch.version.cuda, "sm_%d%d" % torch.cuda.get_device_capability())
PY

echo "== build"
make -C "$root/cuda" -s library PYTHON="$python"

echo "== each file's own checks, then times"
make -C "$root/cuda" -s gpu-check PYTHON="$python"

if command -v compute-sanitizer > /dev/null; then
  echo "== compute-sanitizer"
  for tool in memcheck racecheck synccheck; do
    for one in ring_put topk conv3d_split; do
      compute-sanitizer --tool "$tool" --error-exitcode 1 "$root/cuda/build/gpu_$one" > /dev/null
      echo "$tool $one: clean"
    done
  done
else
  echo "== compute-sanitizer: not installed, left out"
fi

echo "== the operators against torch, on the device"
cd "$root"
"$python" -m pytest -q tests/cuda_kernels
echo "== a network trained on the device, against the CPU's"
"$python" -m pytest -q tests/models/parallel/test_shared.py
echo "== hybrid parallelism beside what it replaces"
devices=$("$python" -c 'import torch; print(torch.cuda.device_count())')
library=$root/cuda/build/libvitalstream_kernels.so
if [ "$devices" -gt 1 ]; then
  "$python" -m app.cli parallel bench --device cuda --ranks "$devices" --kernels "$library"
else
  echo "one device: NCCL takes one rank a device, so that the collectives run on gloo"
  "$python" -m app.cli parallel bench --ranks 4 --kernels "$library"
fi
echo "all right"
