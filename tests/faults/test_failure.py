"""A failure on one rank ends the job at once and says its cause; a rank that stands still is named by the others."""

import os
import re
import resource
import shutil
import signal
import subprocess
import time

import h5py
import pytest
from interrupting import at_unit, left_over, standing_still, units_done, units_recovered
from program import ENVIRONMENT, PROGRAM, Job, assert_same, run
from tiny import VOCABULARY, write_tokens

AT_ONCE = 5.0  # seconds


def seconds_from_message_to_end(job: Job, message: str) -> float:
    """Waits for a line that matches; how long the job lives after it."""
    end = time.monotonic() + 60
    while not re.search(message, job.said()):
        if job.process.poll() is not None and not re.search(message, job.said()):
            pytest.fail(f"no {message!r} in:\n{job.said()}")
        assert time.monotonic() < end, job.said()
        time.sleep(0.01)
    said = time.monotonic()
    job.wait(30)
    return time.monotonic() - said


@pytest.fixture
def damaged_pool(inputs, tmp_path):
    """Two files, so that rank 1 reads the second; a token of its sample 7 is no token of the model."""
    files = [write_tokens(tmp_path / "a.h5", inputs.pool[:100]), write_tokens(tmp_path / "b.h5", inputs.pool[100:200])]
    with h5py.File(files[1], "r+") as file:
        file["tokens"][file["offsets"][7] + 1] = VOCABULARY + 4
    return files


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_bad_sample_that_only_rank_1_reads(inputs, tmp_path, damaged_pool, ranks):
    out = tmp_path / "out" / "weights.h5"
    out.parent.mkdir()
    cause = (rf"rank 1 \(.+\): {damaged_pool[1]}: /tokens, sample 7: expected token ids 0\.\.{VOCABULARY - 1} "
             rf"\(.*\), found {VOCABULARY + 4}\. Write the file again")
    with Job(ranks, *inputs.arguments(out, "--landmarks", 20, pool=damaged_pool)) as job:
        assert seconds_from_message_to_end(job, cause) < AT_ONCE
        assert job.wait(0) == 3
        assert len(re.findall(r"idistill_mpi: rank \d+ ", job.said())) == 1  # that rank alone
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_cause_is_the_last_thing_on_the_screen(inputs, tmp_path, damaged_pool, ranks):
    """Below what mpirun says, said once: of what every rank finds, of what rank 0 finds and of what one other finds."""
    good = inputs.arguments(tmp_path / "w.h5", "--landmarks", 20)
    model = [tmp_path / "none" if word == inputs.model else word for word in good]
    (tmp_path / "there.h5").write_bytes(b"a result")
    for arguments, exit_code, cause in [
        ([*good, "--landmark", 3], 2, "command line: --landmark: expected an option"),
        (model, 3, r"rank 0 \(.+\): --model: expected a model directory"),
        (inputs.arguments(tmp_path / "there.h5"), 4, r"rank 0 \(.+\): .*there.h5: expected no file"),
        (inputs.arguments(tmp_path / "w.h5", pool=damaged_pool), 3, rf"rank {min(1, ranks - 1)} \(.+\): {damaged_pool[1]}: /tokens"),
    ]:
        said = run(ranks, *arguments, exit_code=exit_code)
        *_, last = said.rstrip().splitlines()
        assert re.match(f"idistill_mpi: {cause}", last), said
        assert said.count("idistill_mpi: ") == 1, said


def test_a_cause_without_mpirun(inputs, tmp_path):
    """One process, started as it is: its cause, at once, and nothing else."""
    done = subprocess.run([PROGRAM, *map(str, inputs.arguments(tmp_path / "w.h5", "--landmark", 3))], capture_output=True, text=True,
                          timeout=60, env=ENVIRONMENT)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("idistill_mpi: command line: --landmark: expected an option")


@pytest.mark.parametrize("victim", [0, 2])
def test_a_rank_that_cannot_write_any_more(command, references, tmp_path, victim):
    """In the middle of the units, on one rank, with the others at work."""
    out = tmp_path / "weights.h5"
    with Job(3, *command("kernel-ridge", out)) as job:
        pids = at_unit(job, out, "landmarks", 10)
        resource.prlimit(pids[victim], resource.RLIMIT_FSIZE, (16, 16))
        limited = time.monotonic()
        cause = rf"rank {victim} \(.+\): {out}\.state: .*found that HDF5 could not write it"
        assert seconds_from_message_to_end(job, cause) < AT_ONCE
        assert time.monotonic() - limited < 2 * AT_ONCE  # the next unit, of milliseconds, cannot be written
        assert job.wait(0) == 7
    assert ".state" in left_over(out) and ".partial" not in left_over(out) and not out.exists()
    done = units_done(out)
    run(2, *command("kernel-ridge", out))
    assert units_recovered(out) == done > 0
    assert_same(out, references["kernel-ridge"])


def test_model_directories_that_cannot_be_used(inputs, tmp_path):
    def said(model, exit_code=3):
        arguments = inputs.arguments(tmp_path / "weights.h5", "--landmarks", 20)
        arguments[1] = model
        return run(2, *arguments, exit_code=exit_code, timeout=60)

    assert re.search(rf"rank \d \(.+\): --model: expected .*, found nothing at {tmp_path}/none\.", said(tmp_path / "none"))
    cut = shutil.copytree(inputs.model, tmp_path / "cut")
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[:-100])
    assert re.search(rf"rank 0 \(.+\): {cut}/model\.safetensors", said(cut))
    (cut / "model.safetensors").unlink()
    assert re.search(rf"rank \d \(.+\): {cut}.*safetensors", said(cut))
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".lock") == ["cut"]


@pytest.mark.parametrize("victim,stage", [(0, "landmarks"), (1, "pool"), (2, "targets")])
def test_a_rank_that_stands_still(command, references, tmp_path, victim, stage):
    out = tmp_path / "weights.h5"
    arguments = command("kernel-ridge", out)
    with Job(3, *arguments, "--stall-timeout", 3) as job:
        pids = at_unit(job, out, stage, 5)
        os.kill(pids[victim], signal.SIGSTOP)
        stopped = time.monotonic()
        assert job.wait(30) == 75, job.said()
        assert time.monotonic() - stopped < 12
        named = re.findall(r"idistill_mpi: rank \d \(.+\): .*found .*?rank (\d) \(.+?\).*", job.said())
        assert named and set(named) == {str(victim)}, job.said()
        assert "same command" in job.said()
    assert not out.exists()
    done = units_done(out)
    run(3, *arguments)
    assert units_recovered(out) == done >= 5
    assert_same(out, references["kernel-ridge"])


def test_a_suspended_job_goes_on(command, references, tmp_path):
    """All ranks stand still for longer than the stall timeout, as under a batch system's suspend: nobody is missing."""
    out = tmp_path / "weights.h5"
    with Job(3, *command("kernel-ridge", out), "--stall-timeout", 2) as job:
        pids = at_unit(job, out, "landmarks", 20)
        with standing_still(job, pids):
            time.sleep(5)
        assert job.wait(60) == 0, job.said()
    assert_same(out, references["kernel-ridge"])


def test_a_rank_that_computes_for_longer_than_the_stall_timeout(inputs, tmp_path):
    """The pool is one unit, of many seconds: the other rank waits, and nobody is missing."""
    slow = ["--propagation", "none", "--sketch", "rademacher", "--sketch-dim", 1000, "--batch-tokens", 64, "--unit-flops", "1e18"]
    said = run(2, *inputs.arguments(tmp_path / "weights.h5", *slow, "--stall-timeout", 1))
    (seconds,) = re.findall(r"^exact influence +100 % .* in (\d+) s$", said, re.M)
    assert int(seconds) >= 3, f"the unit was too short to show anything:\n{said}"
