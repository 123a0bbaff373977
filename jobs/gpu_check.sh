#!/usr/bin/env bash
# What a GPU must show: right numbers, the same bits twice, a run that goes on after a kill, and speed (no network).
#
#   jobs/gpu_check.sh                        the programs of build, with .venv
#   jobs/gpu_check.sh --bundle FILE.tar.gz   those of jobs/gpu_bundle.sh, with this machine's python3
#   jobs/gpu_check.sh [...] SECTION ...      some of: machine kernels passes nccl runs speed reference
#
# --work DIR (default: a new folder under /tmp) keeps models and results; --small leaves the 7B shape out; --minutes N (default 8):
# what is left then is NOT RUN; --device cpu tries the check itself, with a tiny model. Every line of the report is printed as it
# is found; the last one says whether everything that ran was right. The exit code is 0 where it was and nothing is left.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ ${1-} == --bundle ]]; then
    : "${2:?--bundle wants a file}"
    work=$(mktemp -d)
    tar -xzf "$2" -C "$work"
    # shellcheck source=/dev/null
    . "$work/idistill-gpu/env.sh"
    shift 2
    exec python3 "$work/idistill-gpu/jobs/gpu_check.py" "$@"
fi
if [[ -n ${IDISTILL_BUNDLE-} ]]; then exec python3 "$here/gpu_check.py" "$@"; fi
cd "$here/.."
export PATH="$PWD/build:$PWD/build/tests:$PATH" OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
exec .venv/bin/python jobs/gpu_check.py "$@"
