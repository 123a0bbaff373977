#!/usr/bin/env bash
# Every test, through CTest. Further arguments go to ctest: jobs/test.sh -R prepare
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

jobs/setup.sh
exec .venv/bin/ctest --test-dir build --output-on-failure --parallel "$(nproc)" "$@"
