#!/usr/bin/env bash
# Speed on this machine, each figure with its ratio (about 20 minutes on 2 cores; leave the machine alone meanwhile).
#
#   jobs/bench.sh                               the demo pool of the quickstart
#   jobs/bench.sh POOL.jsonl [--rounds 3 ...]   the first 256 samples of a pool, at most 512 tokens each
#   jobs/bench.sh --before OLD/build/tests/bench_passes   every pass beside that of another version, and their ratio
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1

jobs/setup.sh
.venv/bin/cmake --build build --target bench_passes bench_delift sketch_error
mkdir -p demo
model=build/models/SmolLM2-135M-Instruct
.venv/bin/python jobs/convert_smollm2.py --out "$model"
.venv/bin/python jobs/demo_pool.py --out demo
pool=demo/bench.jsonl
if (($#)) && [[ $1 != --* ]]; then
    head -n 256 "$1" >"$pool"
    shift
else
    head -n 256 demo/pool.jsonl >"$pool"
fi
.venv/bin/python jobs/prepare.py "$pool" --model "$model" --out demo/bench.h5 --max-length 512
for task in arithmetic code_tracing; do
    .venv/bin/python jobs/prepare.py "demo/$task.jsonl" --model "$model" --out "demo/$task.h5" --max-length 512
done
echo "(s) subset selection; jobs/bench_subset.py alone also runs submodlib-py and apricot-select where they are installed"
.venv/bin/python jobs/bench_subset.py --only exact stochastic sparse
unset OMP_NUM_THREADS
.venv/bin/python jobs/bench.py --model "$model" --tokens demo/bench.h5 "$@"
mpirun --oversubscribe -n 2 build/tests/bench_delift "$model" demo/bench.h5 16 2 3
echo "(h) error of sketched influences, with the two targets of the demo"
build/tests/sketch_error "$model" demo/bench.h5 96 40 128 tensor:32768,tensor:98304,kronecker:32768,kronecker:98304,hadamard:98304 \
    demo/arithmetic.h5 demo/code_tracing.h5
OMP_NUM_THREADS=1 .venv/bin/python jobs/bench_network.py
