"""A failure on one rank ends the job at once and says its cause; a rank that stands still is named by the others."""

import os
import re
import resource
import shutil
import signal
import time

import h5py
import pytest
from interrupting import at_unit, continuing, left_over, standing_still, units_done, units_recovered
from program import Job, assert_same, run, run_alone
from tiny import VOCABULARY, Inputs, write_tokens

AT_ONCE = 30.0  # seconds: many times what a busy machine needs, far below the stall timeout, 600 where none is given
STALL_TIMEOUT = 4  # seconds: a rank that gets no core for 3/8 of it is taken for one that is silent


def ends_at_once(job: Job, message: str) -> int:
    """Waits for a line that matches; the job ends soon after it, with this exit code."""
    job.until(lambda: re.search(message, job.said()) or job.process.poll() is not None, message)
    code = job.wait(AT_ONCE)
    assert re.search(message, job.said()), job.said()
    return code


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
        assert ends_at_once(job, cause) == 3
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
    (line,) = run_alone(*inputs.arguments(tmp_path / "w.h5", "--landmark", 3), exit_code=2).splitlines()
    assert line.startswith("idistill_mpi: command line: --landmark: expected an option")


def test_a_rank_that_cannot_write_any_more(command, reference, tmp_path):
    """In the middle of the units, on one rank, with the others at work; another one in the run that continues."""
    out = tmp_path / "weights.h5"
    for victim, stage in [(0, "landmarks"), (2, "pool")]:
        with Job(3, *command("kernel-ridge", out)) as job:
            pids = at_unit(job, out, stage, 10)
            resource.prlimit(pids[victim], resource.RLIMIT_FSIZE, (16, 16))
            limited = time.monotonic()
            cause = rf"rank {victim} \(.+\): {out}\.state: .*found that HDF5 could not write it"
            assert ends_at_once(job, cause) == 7
            assert time.monotonic() - limited < AT_ONCE  # the next unit, of milliseconds, cannot be written
        assert ".state" in left_over(out) and ".partial" not in left_over(out) and not out.exists()
    done = units_done(out)
    run(2, *command("kernel-ridge", out))
    assert units_recovered(out) == done > 0
    assert_same(out, reference("kernel-ridge"))


def test_model_directories_that_cannot_be_used(inputs, tmp_path):
    def given(model):
        arguments = inputs.arguments(tmp_path / "weights.h5", "--landmarks", 20)
        arguments[1] = model
        return arguments

    none, cut = tmp_path / "none", shutil.copytree(inputs.model, tmp_path / "cut")
    assert re.search(rf"rank 0 \(.+\): --model: expected .*, found nothing at {none}\.", run_alone(*given(none), exit_code=3))
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[:-100])
    assert re.search(rf"rank 0 \(.+\): {cut}/model\.safetensors", run(2, *given(cut), exit_code=3))
    (cut / "model.safetensors").unlink()
    assert re.search(rf"rank 0 \(.+\): {cut}.*safetensors", run_alone(*given(cut), exit_code=3))
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".lock") == ["cut"]


def test_a_rank_that_stands_still(command, reference, tmp_path):
    """One after another, each time in a run that continues the one before."""
    out = tmp_path / "weights.h5"
    arguments = command("kernel-ridge", out)
    done = 0
    for victim, stage in [(2, "targets"), (0, "landmarks"), (1, "pool")]:
        with Job(3, *arguments, "--stall-timeout", STALL_TIMEOUT) as job:
            pids = at_unit(job, out, stage, 5)
            os.kill(pids[victim], signal.SIGSTOP)
            assert job.wait(STALL_TIMEOUT + AT_ONCE) == 75, job.said()
            named = re.findall(r"idistill_mpi: rank \d \(.+\): .*found .*?rank (\d) \(.+?\).*", job.said())
            assert named and set(named) == {str(victim)}, job.said()
            assert "same command" in job.said()
            assert not done or continuing(done) in job.said()
        assert not out.exists()
        done = units_done(out)
        assert done >= 5
    run(3, *arguments)
    assert units_recovered(out) == done
    assert_same(out, reference("kernel-ridge"))


def test_a_suspended_job_goes_on(command, reference, tmp_path):
    """All ranks stand still for longer than the stall timeout, as under a batch system's suspend: nobody is missing."""
    out = tmp_path / "weights.h5"
    with Job(3, *command("kernel-ridge", out), "--stall-timeout", STALL_TIMEOUT) as job:
        pids = at_unit(job, out, "landmarks", 20)
        with standing_still(job, pids):
            time.sleep(2 * STALL_TIMEOUT)
        assert job.wait(60) == 0, job.said()
    assert_same(out, reference("kernel-ridge"))


def test_a_rank_that_computes_for_longer_than_the_stall_timeout(tmp_path):
    """The pool is one unit, of many seconds: the other rank waits, and nobody is missing."""
    inputs = Inputs(tmp_path, 120, 4)
    slow = ["--propagation", "none", "--sketch", "rademacher", "--sketch-dim", 2000, "--batch-tokens", 64, "--unit-flops", "1e18"]
    said = run(2, *inputs.arguments(tmp_path / "weights.h5", *slow, "--stall-timeout", 1.5))
    (seconds,) = re.findall(r"^exact influence +100 % .* in (\d+) s$", said, re.M)
    assert int(seconds) >= 3, f"the unit was too short to show anything:\n{said}"
