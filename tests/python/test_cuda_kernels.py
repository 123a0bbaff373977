"""The CUDA kernels: what the compiler makes of them where there is one, and what a GPU makes of them where there is one."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "model" / "kernels_cuda.cu"
ARCHITECTURES = ("sm_80", "sm_90")
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path=os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin")
# As cuobjdump and ptxas write them: Rotate<Bf16> is in idistill::model::rows.
STEPS = ("RmsNorm", "RmsNormBackward", "RmsNormTangent", "Swiglu", "SwigluBackward", "SwigluTangent", "Rotate",
         "CausalSoftmax", "SoftmaxJacobian", "CrossEntropy")  # fmt: skip


def resources(report):
    """(kernel, architecture) -> stack frame, spill stores and loads in bytes, of what `ptxas -v` reports."""
    entry = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
    usage = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
    found, kernel = {}, None
    for line in report.splitlines():
        if match := entry.search(line):
            kernel = match.groups()
        elif (match := usage.search(line)) and kernel:
            found[kernel] = tuple(map(int, match.groups()))
    return found


def test_spills_are_read():
    report = """ptxas info    : Compiling entry function '_Zone' for 'sm_90'
ptxas info    : Function properties for _Zone
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads"""
    assert resources(report) == {("_Zone", "sm_90"): (8, 12, 16)}


@pytest.mark.skipif(NVCC is None, reason="no nvcc: the CUDA kernels are not compiled here")
def test_no_kernel_spills_registers(tmp_path):
    generate = [f"-gencode=arch=compute_{a[3:]},code={a}" for a in ARCHITECTURES]
    done = subprocess.run(
        [NVCC, "-std=c++17", "-O3", "-t", "2", *generate, "-Xptxas", "-v", "-c", SOURCE, "-o", tmp_path / "kernels.o"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = resources(done.stdout + done.stderr)
    for architecture in ARCHITECTURES:
        kernels = [kernel for kernel, of in found if of == architecture]
        for step in STEPS:  # in two storages, aligned and not
            assert sum(f"{len(step)}{step}I" in kernel for kernel in kernels) == 4, (step, architecture)
        assert sum("on_buckets" in kernel for kernel in kernels) == 6
        assert sum("on_products" in kernel for kernel in kernels) == 1
    assert {kernel: bytes for kernel, bytes in found.items() if any(bytes)} == {}


def test_on_a_gpu():
    check = Path(os.environ["IDISTILL_PROGRAM"]).parent / "tests" / "cuda_kernel_check"
    if not check.exists():
        pytest.skip("the CUDA kernels are not built: no nvcc, or IDISTILL_CUDA=OFF")
    done = subprocess.run([check], capture_output=True, text=True, check=False)
    if done.returncode == 2 and "no GPU" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all right"
