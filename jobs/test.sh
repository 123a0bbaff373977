#!/usr/bin/env bash
# Every test, through CTest. Further arguments go to ctest: jobs/test.sh -R prepare
# The last line counts cases, and the exit code is ctest's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

jobs/setup.sh
# What the tests alone compare with.
.venv/bin/python -m pip install --disable-pip-version-check -q -r tests/requirements.txt
echo "== build of the tests"
.venv/bin/cmake --build build

cases=$PWD/build/Testing/cases
rm -rf "$cases" "$cases.xml"
mkdir -p "$cases"
status=0
.venv/bin/ctest --test-dir build --output-on-failure --parallel "$(nproc)" --output-junit "$cases.xml" "$@" || status=$?
.venv/bin/python tests/support/python/count_cases.py "$cases.xml" "$cases"
exit "$status"
