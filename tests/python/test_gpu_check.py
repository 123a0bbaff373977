"""jobs/gpu_check.py: what it says of trials that fail, miss something or come too late; and the whole of it on a CPU."""

import subprocess
import sys
from pathlib import Path

import pytest
from idistill.gpu_report import OutOfTime, Report, Skipped, need
from idistill.gpu_speed import bytes_together

ROOT = Path(__file__).resolve().parents[2]


def test_every_trial_is_told_of(capsys):
    report = Report(minutes=1)
    report.trial("one", lambda: report.check("one", True, "found"))
    report.trial("two", lambda: need("numpy", "no_such_package"))
    report.trial("three", lambda: 1 / 0)
    report.deadline = 0
    report.trial("four", lambda: report.check("four", True))
    assert report.end() == 1
    assert capsys.readouterr().out.splitlines() == [
        "  right  one: found",
        "  SKIPPED  two: python3 has no no_such_package",
        "  WRONG  three: ZeroDivisionError: division by zero",
        "  NOT RUN  four: the time was up",
        "gpu_check: WRONG: three; SKIPPED: two; NOT RUN: four",
    ]


@pytest.mark.parametrize(("skip", "code"), [(True, 0), (False, 1)])
def test_what_is_skipped_is_no_failure_and_what_did_not_run_is(skip, code):
    report = Report(minutes=1)

    def work():
        raise Skipped("no card") if skip else OutOfTime

    report.trial("one", work)
    assert report.end() == code


def test_commands_end_with_the_time(capsys):
    report = Report(minutes=1)
    slow = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]
    assert report.said(slow, 1) == (124, "begun\n")
    report.deadline -= 58
    with pytest.raises(OutOfTime):
        report.said(slow, 30)
    assert "begun" in capsys.readouterr().out


def test_the_memory_of_a_gpu_is_read_from_a_plan():
    plan = ("Memory of one NVIDIA H200\n  weights    2.47 GB\n  together    31.5 GB of 139 GB free, 150 GB in all\n"
            "Memory of one rank\n  together    205 MB   the most at a time\n")  # fmt: skip
    assert bytes_together(plan) == 31.5e9
    with pytest.raises(RuntimeError, match="names no memory of a GPU"):
        bytes_together(plan.replace("NVIDIA H200", "rank"))


def test_it_tries_itself_without_a_gpu(tmp_path):
    check = [ROOT / "jobs" / "gpu_check.sh", "--device", "cpu", "--work", tmp_path, "kernels", "nccl", "reference"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said[-1].startswith("gpu_check: everything that was run is right; SKIPPED: fused kernels, NCCL")
    assert any("(c) gradient sketch" in line and "% of the peak" in line for line in said)
    assert any("transformers + autograd" in line for line in said)
