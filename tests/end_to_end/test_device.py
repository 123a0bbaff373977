"""What ranks compute on: chosen by all of them before anything else, part of what a run is."""

import os

import pytest
from interrupting import interrupt
from program import assert_same, run

GPU = os.path.exists("/dev/nvidiactl")


@pytest.mark.skipif(GPU, reason="there is a GPU here: jobs/gpu_check.sh looks at runs on it")
@pytest.mark.parametrize("ranks", [1, 2])
def test_without_a_gpu_cuda_is_refused_with_the_reason(inputs, tmp_path, ranks):
    out = tmp_path / "out.h5"
    said = run(ranks, *inputs.arguments(out, "--device", "cuda"), exit_code=2)
    assert "--device cuda" in said and "rank 0 on " in said and "--device cpu" in said
    assert "no NVIDIA driver" in said or "no GPU is visible" in said or "without CUDA" in said
    assert list(tmp_path.glob("out.h5*")) == []


@pytest.mark.skipif(GPU, reason="there is a GPU here")
def test_auto_is_the_cpu_in_fp32_where_there_is_no_gpu(inputs, tmp_path):
    run(1, *inputs.arguments(tmp_path / "auto.h5", "--landmarks", 20))
    run(2, *inputs.arguments(tmp_path / "named.h5", "--landmarks", 20, "--device", "cpu", "--dtype", "fp32"))
    assert_same(tmp_path / "auto.h5", tmp_path / "named.h5")


def test_a_state_in_other_numbers_is_refused_by_name(inputs, tmp_path):
    """What was begun in 16 bits is not continued in 32, and else goes on to the same bits."""
    out = tmp_path / "out.h5"
    interrupt(2, inputs.arguments(out, "--landmarks", 60, "--dtype", "bf16", *inputs.unit), out, "landmarks", 2, victim=1)
    said = run(1, *inputs.arguments(out, "--landmarks", 60, "--dtype", "fp32", *inputs.unit), exit_code=6)
    assert "dtype" in said and "bf16" in said and "fp32" in said
    run(2, *inputs.arguments(out, "--landmarks", 60, "--dtype", "bf16", *inputs.unit))
    run(1, *inputs.arguments(tmp_path / "whole.h5", "--landmarks", 60, "--dtype", "bf16", *inputs.unit))
    assert_same(out, tmp_path / "whole.h5")
