#!/usr/bin/env bash
# The real thing, small: SmolLM2-135M selects, on two ranks, a tenth of a pool of 1,200 generated samples for two target
# tasks, and should find the families of samples that the targets come from. Everything lands in demo/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

jobs/setup.sh

python=.venv/bin/python
demo=demo
model=build/models/SmolLM2-135M-Instruct
targets=(arithmetic code_tracing)

echo "== model"
$python jobs/convert_smollm2.py --out $model

echo "== samples"
$python jobs/demo_pool.py --out $demo --targets "${targets[@]}"
target_options=()
for name in pool "${targets[@]}"; do
    $python jobs/prepare.py $demo/"$name".jsonl --model $model --max-length 512 --out $demo/"$name".h5
done
for target in "${targets[@]}"; do
    target_options+=(--target "$target=$demo/$target.h5")
done

echo "== selection"
if ((EUID == 0)); then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
mpirun --oversubscribe --bind-to none -n 2 build/idistill_mpi \
    --model $model --pool $demo/pool.h5 "${target_options[@]}" \
    --landmarks 200 --select 10% --out $demo/weights.h5 --overwrite

$python jobs/export.py $demo/weights.h5 --pool $demo/pool.jsonl --out $demo/selected.jsonl
$python jobs/show_selection.py $demo/weights.h5
