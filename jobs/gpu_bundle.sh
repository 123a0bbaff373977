#!/usr/bin/env bash
# Everything of ours that a machine with a GPU needs to run idistill_mpi, in one file below 60 MB, for a machine on which
# nothing of ours is installed and nothing can be built.
#
#   jobs/gpu_bundle.sh [--out FILE.tar.gz] [--torch DIRECTORY] [--no-test]
#
# --out     build-gpu/idistill-gpu.tar.gz unless said otherwise
# --torch   folder of the torch package (.../site-packages/torch) to build against; that of .venv unless said otherwise. It must
#           be of the version that the other machine has; its Python version does not matter, and an unpacked wheel will do.
#           The folder nvidia beside it, of the wheels that torch needs, is used where it is there
# --no-test leaves out the trial of the bundle
#
# Expects what jobs/setup.sh installs, with Open MPI 4 as MPI. Builds in build-gpu, for any processor with AVX2; repeating it
# builds what changed. The other machine needs x86-64, a glibc at least as new as the one here, and a python3 with the same
# PyTorch. There:
#
#   tar -xzf idistill-gpu.tar.gz && . idistill-gpu/env.sh
#   idistill_mpi --help                          one rank
#   mpirun -n 2 idistill_mpi ...                 several on the machine
#
# env.sh finds python3's PyTorch (IDISTILL_TORCH=DIRECTORY names another one), and says so where it is of another version.
#
# In the bundle: programs (stripped, tests among them), lib (what they need except for glibc and PyTorch), openmpi (its components
# for ranks of one machine), jobs, and the Python files of tests. What is in bin starts a program with these libraries in
# LD_LIBRARY_PATH: that of python3 and all others stays as it was.
#
# The bundle is tried out on the CPU before the script ends, in a root folder that holds glibc, a shell, PyTorch's libraries and
# the bundle, without a network: the test programs, and a run of a tiny model with one rank and with two, which must give the
# same bits. Where this user may make no namespaces, the trial is left out, and the script says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build="build-gpu"
name=idistill-gpu
python=.venv/bin/python
tests=(unit_model unit_influence unit_embedding unit_propagation)
programs=(idistill_mpi "${tests[@]}" bench_passes parity_probe ranks_device_collectives)
glibc='^(ld-linux-x86-64|lib(c|m|dl|rt|util|pthread|resolv|anl|mvec|nsl|BrokenLocale|thread_db|nss_[a-z]+))\.so'
largest=60000000  # bytes

fail() {
    echo "jobs/gpu_bundle.sh: $*" >&2
    exit 1
}

out=$build/$name.tar.gz torch='' try=1
while (($#)); do
    case $1 in
    --out) out=${2:?--out wants a file} && shift 2 ;;
    --torch) torch=${2:?--torch wants a directory} && shift 2 ;;
    --no-test) try=0 && shift ;;
    -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" && exit ;;
    *) fail "unknown argument $1; expected --out, --torch or --no-test" ;;
    esac
done

[[ $(uname -sm) == "Linux x86_64" ]] || fail "makes bundles on Linux x86-64 alone, this is $(uname -sm)"
[[ -x .venv/bin/cmake ]] || fail ".venv/bin/cmake is missing; run jobs/setup.sh first"
for tool in ompi_info orterun orted ldd strip readelf; do
    command -v "$tool" >/dev/null || fail "$tool is missing; the bundle needs binutils and Open MPI 4 (openmpi-bin)"
done
[[ -n $torch ]] || torch=$($python -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')
[[ -f $torch/share/cmake/Torch/TorchConfig.cmake ]] ||
    fail "$torch: no torch package with C++ libraries (share/cmake/Torch is missing)"
torch=$(realpath "$torch")
version=$(sed -n "s/^__version__ = '\([^'+]*\).*/\1/p" "$torch/version.py")
[[ -n $version ]] || fail "$torch/version.py: names no version"

# --- programs ----------------------------------------------------------------------------------------------------------------
build() {
    local stamp=$build/configured_with
    if [[ ! -f $build/build.ninja || ! -f $stamp || $(<"$stamp") != "$torch" ]]; then
        echo "== configuration: $build, for PyTorch $version"
        .venv/bin/cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Release -DTorch_DIR="$torch/share/cmake/Torch" \
            -DIDISTILL_ARCH=x86-64-v3 -DCMAKE_SKIP_RPATH=ON -DCMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined
        echo "$torch" >"$stamp"
    fi
    echo "== programs"
    # The CUDA kernels and their check, where nvcc is.
    mapfile -t kernels < <(ninja -C $build -t targets all | sed -n 's/^\(idistill_cuda\|cuda_check\): phony$/\1/p')
    ((${#kernels[@]})) || echo "without the fused CUDA kernels, see the summary of the configuration: PyTorch's operations serve"
    .venv/bin/cmake --build $build --target "${programs[@]}" "${kernels[@]}"
}

# --- the folder --------------------------------------------------------------------------------------------------------------
# Paths of all libraries that the given files need, except for glibc and PyTorch.
libraries_of() {
    local needed missing
    needed=$(ldd "$@")
    missing=$(awk '/not found/ {print $1}' <<<"$needed" | sort -u)
    for library in $missing; do
        [[ -e $torch/lib/$library ]] || fail "$library, which $* need, is neither on this machine nor in $torch/lib"
    done
    awk '$2 == "=>" && $3 ~ /^\// {print $3}' <<<"$needed" | sort -u | while read -r library; do
        [[ ${library##*/} =~ $glibc || -e $torch/lib/${library##*/} ]] || echo "$library"
    done
}

# The components that need no libraries but those that are in the bundle already: the others are for networks between machines.
copy_components() {
    local component library taken=0
    mkdir -p "$2"
    for component in "$1"/*.so; do
        [[ -e $component ]] || continue
        for library in $(libraries_of "$component"); do
            [[ -e $folder/lib/${library##*/} ]] && continue
            [[ ${library##*/} == libmca_common_* && $library != *verbs* && $library != *ofi* ]] || continue 2
        done
        copy_libraries "$component"
        cp -L "$component" "$2"
        taken=$((taken + 1))
    done
    ((taken)) || fail "$1: no components of Open MPI there; expected Open MPI 4 with its components as files"
}

copy_libraries() {
    local library
    for library in $(libraries_of "$@"); do
        [[ -e $folder/lib/${library##*/} ]] || cp -L "$library" "$folder/lib"
    done
}

# What Open MPI calls one of its folders.
folder_of_mpi() {
    ompi_info --path "$1" --parsable | sed -n 's/^path:[^:]*://p' | head -n 1
}

copy_mpi() {
    local path pmix
    mkdir -p "$folder/openmpi/etc"
    for program in orterun orted; do
        cp -L "$(command -v $program)" "$folder/programs"
        copy_libraries "$folder/programs/$program"
    done
    mv "$folder/programs/orterun" "$folder/programs/mpirun"
    path=$(folder_of_mpi pkglibdir)
    # PMIx of its own, beside Open MPI, where the distribution builds both apart.
    pmix=$(ldd "$path"/mca_pmix_ext*.so 2>/dev/null | awk '/libpmix\.so/ {print $3; exit}')
    if [[ -n $pmix ]]; then
        copy_libraries "$path"/mca_pmix_ext*.so
        pmix=$(dirname "$(realpath "$pmix")")
        copy_components "$pmix/pmix" "$folder/openmpi/pmix"
    fi
    copy_components "$path" "$folder/openmpi/lib"
    cp -rL "$(folder_of_mpi pkgdatadir)" "$folder/openmpi/share"
    rm -f "$folder"/openmpi/share/*wrapper-data*
    cp -L "$(folder_of_mpi sysconfdir)"/openmpi-mca-params.conf "$folder/openmpi/etc" 2>/dev/null || true
}

write_launchers() {
    local program
    mkdir "$folder/bin"
    cat >"$folder/start" <<'START'
#!/bin/sh
# Starts the program of its name with the libraries of this bundle and PyTorch's.
LD_LIBRARY_PATH=${IDISTILL_BUNDLE:?unset; read env.sh first}/lib:$IDISTILL_TORCH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
exec "$IDISTILL_BUNDLE/programs/${0##*/}" "$@"
START
    chmod +x "$folder/start"
    for program in "$folder"/programs/*; do
        ln -s ../start "$folder/bin/${program##*/}"
    done
}

write_environment() {
    cat >"$folder/env.sh" <<'ENVIRONMENT'
# Read by a shell: . idistill-gpu/env.sh    (a shell that is not bash: in the folder of the bundle, . ./env.sh)
IDISTILL_BUNDLE=$PWD
if [ -n "${BASH_SOURCE:-}" ]; then IDISTILL_BUNDLE=$(cd "$(dirname "$BASH_SOURCE")" && pwd); fi
export IDISTILL_BUNDLE

if [ -z "${IDISTILL_TORCH:-}" ]; then
    IDISTILL_TORCH=$(python3 -c \
        'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])' 2>/dev/null) || IDISTILL_TORCH=
fi
if [ ! -e "$IDISTILL_TORCH/lib/libtorch_cpu.so" ]; then
    echo "$IDISTILL_BUNDLE/env.sh: no PyTorch at '$IDISTILL_TORCH'; activate the python3 that has it," \
        "or set IDISTILL_TORCH to the folder of its package torch" >&2
    unset IDISTILL_TORCH
    return 1
fi
export IDISTILL_TORCH
while IFS="'" read -r idistill_key idistill_version _; do
    if [ "$idistill_key" = "__version__ = " ] && [ "${idistill_version%%+*}" != "@version@" ]; then
        echo "$IDISTILL_BUNDLE/env.sh: $IDISTILL_TORCH is PyTorch $idistill_version, these programs are built for @version@;" \
            "make a bundle with jobs/gpu_bundle.sh --torch of that version" >&2
        return 1
    fi
done <"$IDISTILL_TORCH/version.py"

export PATH="$IDISTILL_BUNDLE/bin:$PATH"
export IDISTILL_PROGRAM="$IDISTILL_BUNDLE/bin/idistill_mpi" IDISTILL_PROBE="$IDISTILL_BUNDLE/bin/parity_probe"
export IDISTILL_MPIRUN="$IDISTILL_BUNDLE/bin/mpirun"
# Where Open MPI and PMIx find what is theirs.
export OPAL_PREFIX="$IDISTILL_BUNDLE/openmpi"
export OPAL_BINDIR="$IDISTILL_BUNDLE/programs" OPAL_LIBDIR="$OPAL_PREFIX/lib" OPAL_PKGLIBDIR="$OPAL_PREFIX/lib"
export OPAL_DATADIR="$OPAL_PREFIX/share" OPAL_PKGDATADIR="$OPAL_PREFIX/share" OPAL_SYSCONFDIR="$OPAL_PREFIX/etc"
export PMIX_PREFIX="$OPAL_PREFIX" PMIX_LIBDIR="$OPAL_PREFIX" PMIX_PKGLIBDIR="$OPAL_PREFIX/pmix"
export PMIX_PKGDATADIR="$OPAL_PREFIX/share" PMIX_SYSCONFDIR="$OPAL_PREFIX/etc"
export PMIX_MCA_mca_base_component_path="$OPAL_PREFIX/pmix"
# Ranks of one machine, perhaps in a container: no daemon for a single rank, no binding, no reading of each other's memory.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_ess_singleton_isolated=1
export OMPI_MCA_plm=isolated OMPI_MCA_btl=self,vader OMPI_MCA_btl_vader_single_copy_mechanism=none
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1
ENVIRONMENT
    sed -i "s/@version@/$version/g" "$folder/env.sh"
}

fill() {
    local program path
    echo "== bundle: $folder"
    rm -rf "$folder"
    mkdir -p "$folder/programs" "$folder/lib"
    for program in "${programs[@]}"; do
        path=$build/$program
        [[ -e $path ]] || path=$build/tests/$program
        strip -o "$folder/programs/$program" "$path"
        copy_libraries "$path"
    done
    if ((${#kernels[@]})); then
        strip -o "$folder/programs/cuda_kernel_check" $build/tests/cuda_kernel_check
        cp $build/libidistill_cuda.so "$folder/lib"
    fi
    copy_mpi
    write_launchers
    write_environment
    git ls-files -co --exclude-standard -- jobs tests | grep -E '\.(py|sh|txt|toml)$' | xargs cp --parents -t "$folder"
    git describe --always --dirty >"$folder/version"
}

# --- the trial ---------------------------------------------------------------------------------------------------------------
# In a namespace of its own, as its root: $1 runs where / holds nothing but what is named here.
in_empty_root() {
    # shellcheck disable=SC2016  # expanded by the inner shells
    PATH=$PATH:/usr/sbin:/sbin unshare "${namespace[@]}" bash -euc '
        root=$1 folder=$2 torch=$3 glibc=$4 files=$5 command=$6
        mount -t tmpfs none "$root"
        mkdir -p "$root"/{bundle,python/torch,python/nvidia,files,proc,dev,sys,tmp,lib64,bin,lib/x86_64-linux-gnu}
        libraries=$(dirname "$(ldd /bin/sh | awk "/libc\.so/ {print \$3}")")
        for library in "$libraries"/*.so*; do
            [[ ! ${library##*/} =~ $glibc ]] || cp -L "$library" "$root/lib/x86_64-linux-gnu"
        done
        cp -L /lib64/ld-linux-x86-64.so.2 "$root/lib64"
        cp -L /bin/sh "$root/bin/sh"
        ldd /bin/sh | awk "\$2 == \"=>\" {print \$3}" | xargs cp -Lt "$root/lib/x86_64-linux-gnu"
        mount --bind "$folder" "$root/bundle"
        mount --bind "$torch" "$root/python/torch"
        [[ ! -d $torch/../nvidia ]] || mount --rbind "$(realpath "$torch/../nvidia")" "$root/python/nvidia"
        mount --bind "$files" "$root/files"
        for system in proc dev sys; do mount --rbind "/$system" "$root/$system"; done
        ip link set lo up 2>/dev/null || true
        exec env -i PATH=/bin HOME=/tmp TMPDIR=/tmp OMP_NUM_THREADS=1 IDISTILL_TORCH=/python/torch \
            "$(command -v chroot)" "$root" /bin/sh -euc "cd /bundle && . ./env.sh && cd /files && $command"
    ' _ "$root" "$folder" "$torch" "$glibc" "$files" "$1"
}

try_out() {
    local files root test namespace=(--mount --net)
    ((EUID == 0)) || namespace+=(--user --map-root-user)
    if ! unshare "${namespace[@]}" true 2>/dev/null; then
        echo "== trial: left out, this user may make no namespaces here (unshare ${namespace[*]})"
        return 0
    fi
    echo "== trial: $folder in an empty root"
    root=$(mktemp -d) files=$(mktemp -d)
    # shellcheck disable=SC2064  # now, as they are local
    trap "rm -rf $root $files" EXIT
    for test in "${tests[@]}"; do
        in_empty_root "$test --color_output=no --log_level=error" >"$files/$test.log" 2>&1 || fail "$test: $(<"$files/$test.log")"
        echo "$test: no errors"
    done
    PYTHONPATH=jobs:tests/python $python - "$files" 2>"$files/python.log" <<'PYTHON' || fail "$(<"$files/python.log")"
import sys
from pathlib import Path

from tiny_models import save_model, write_tokens

files = Path(sys.argv[1])
save_model("llama", files / "model")
write_tokens(files / "pool.h5", 60, seed=1)
write_tokens(files / "target.h5", 8, seed=2)
PYTHON
    local run="idistill_mpi --device cpu --model model --pool pool.h5 --target math=target.h5"
    run+=" --landmarks 20 --jvp-blocks 3 --select 12 --unit-flops 2e7"
    in_empty_root "$run --out 1.h5" >"$files/1.log" 2>&1 || fail "one rank: $(<"$files/1.log")"
    in_empty_root "mpirun -n 2 $run --out 2.h5" >"$files/2.log" 2>&1 || fail "two ranks: $(<"$files/2.log")"
    IDISTILL_PROGRAM='' IDISTILL_MPIRUN='' PYTHONPATH=jobs:tests/support/python $python -c "
from pathlib import Path
from program import assert_same
files = Path('$files')
assert_same(files / '1.h5', files / '2.h5')"
    echo "a run of one rank and a run of two: the same bits"
}

pack() {
    tar -C "$(dirname "$folder")" --owner=0 --group=0 -cf - $name | gzip -9 >"$out.partial"
    (($(stat -c %s "$out.partial") < largest)) || fail "$out.partial is $(stat -c %s "$out.partial") bytes; expected below $largest"
    mv "$out.partial" "$out"
    echo "$out: $(($(stat -c %s "$out") / 1000000)) MB, for PyTorch $version"
}

folder=$build/bundle/$name
build
fill
if ((try)); then try_out; fi
pack
