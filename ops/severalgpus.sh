#!/bin/sh
# Run the tests that need two real GPUs of one host (on one GPU, the other parts): sh ops/severalgpus.sh [KILLS]. The output goes to docs/status.md;
# the exit status is 0 if the rules, the kernels and the kills all passed.
# The Python that PY names must have the packages of `make gpu`; no network is needed. PYTHONPATH may name wheels that were copied to the machine.
set -u
failed=0
cd "$(dirname "$0")/.."
PY=${PY:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
[ -f muninn/_shim/libmuninn.so ] || { mkdir -p muninn/_shim && ${CC:-cc} -std=c11 -O2 -g -fPIC -shared -pthread -fvisibility=hidden -o muninn/_shim/libmuninn.so cshim/*.c; } || exit 1
echo "== the GPUs, and which of them reach each other"
nvidia-smi --query-gpu=index,name,driver_version,memory.total,memory.used --format=csv
nvidia-smi topo -p2p r
$PY -W ignore -c "
from muninn.devices.cuda import CudaDevice
d = CudaDevice()
print('GPUs', d.gpuCount, 'reach:', [[d.canAccessPeer(a, b) for b in range(d.gpuCount)] for a in range(d.gpuCount)], d.topology())"
echo "== the rules between GPUs"
TEST_DRIVER=gpu timeout 240 $PY -m pytest -q -rfEs -p no:cacheprovider tests/conformance/test_deviceMemory.py tests/cuda/test_severalGpus.py tests/cuda/test_kernels.py || failed=1
echo "== the kernels by numba-cuda-mlir, where it is installed"
if $PY -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('numba_cuda_mlir') is None)"; then timeout 60 $PY -W ignore -c "
import sys; sys.modules['numba_cuda'] = None
import numpy, muninn
from muninn.kernels import launch, numbacuda
b, s, wrong = muninn.array('x', 100_000, 'u8', mode='fastMode'), muninn.createStream(), numpy.zeros(1, numpy.uint64)
with b.write(stream=s) as view: launch.launch('fillPattern', view, 42, stream=s)
launch.launch('countMismatches', b.read(), 42, wrong); print(numbacuda.cuda.__name__, 'wrong elements:', int(wrong[0])); sys.exit(int(wrong[0] != 0))" || failed=1; fi
echo "== VRAM in use after kills mid-kernel, and after the end of every process of the test"
nvidia-smi --query-gpu=index,memory.used --format=csv,noheader
for kills in "${1:-50}" "${1:-50}"; do
    TEST_DRIVER=gpu timeout 200 $PY -m tests.crash --kills "$kills" --seconds 150 || failed=1
    nvidia-smi --query-gpu=index,memory.used --format=csv,noheader
    nvidia-smi --query-compute-apps=pid,used_memory --format=csv,noheader
done
exit $failed
