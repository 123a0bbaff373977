"""Exit codes, and what a refused run leaves behind: nothing, or what was there before."""

import re
import shutil
import subprocess

import h5py
import numpy as np
import pytest
from interrupting import at_unit, interrupt, left_over, standing_still, state_of, units_done, units_recovered
from program import Job, assert_same, run, run_alone
from tiny import write_tokens

USAGE, BAD_INPUT, RESULT_EXISTS, LOCKED, STATE_MISMATCH, TOO_LARGE = 2, 3, 4, 5, 6, 7


@pytest.fixture
def out(tmp_path):
    return tmp_path / "weights.h5"


def test_usage(inputs, out):
    eligible = len(inputs.pool) - len([r for r in inputs.reasons.values() if r != "not finite"])
    for extra, message in [
        (["--landmark", 3], "--landmark: expected an option of this command, found an unknown option. Did you mean --landmarks?"),
        (["--select", eligible + 1], f"--select: expected at most {eligible} samples, which are eligible, found {eligible + 1}"),
        (["--landmarks", 1000], f"--landmarks: expected at most {eligible}, the eligible samples of the pool, found 1000"),
        (["--source-cap", "Math=3"], "Did you mean math?"),
    ]:
        said = run_alone(*inputs.arguments(out, *extra), exit_code=USAGE)
        assert message in said, said
    assert not list(out.parent.iterdir())


def test_a_directory_as_out_is_refused_at_once(inputs, tmp_path):
    for command in ([], ["plan"]):
        said = run_alone(*command, *inputs.arguments(tmp_path, "--overwrite"), exit_code=USAGE)
        assert f"--out: expected the name of a file, found the directory {tmp_path}. Add a name to it." in said


def test_plan_checks_the_weights(inputs, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(inputs.model, model)
    weights = model / "model.safetensors"
    cut = weights.read_bytes()[:-4]
    arguments = [model if word == inputs.model else word for word in inputs.arguments(tmp_path / "out.h5")]
    run_alone("plan", *arguments)
    weights.write_bytes(cut)
    assert str(weights) in run_alone("plan", *arguments, exit_code=BAD_INPUT)
    weights.unlink()
    said = run_alone("plan", *arguments, exit_code=BAD_INPUT)
    assert "expected model.safetensors or model.safetensors.index.json, found neither" in said


def test_more_asked_for_than_turns_out_to_be_finite(inputs, command, out):
    """Known only when gradients are there: the message says how many can be had, and these are then selected."""
    usable = len(inputs.pool) - len(inputs.reasons)
    said = run(2, *command("exact-tasks", out, "--select", usable + 1), exit_code=USAGE)
    assert f"found {usable + 1} asked for, {usable} eligible" in said
    assert left_over(out) in ([".lock", ".state"], [".state"])
    run(2, *command("exact-tasks", out, "--select", usable))
    assert units_recovered(out) > 0
    with h5py.File(out) as file:
        assert len(file["selected/index"]) == usable


def test_bad_input(inputs, out, tmp_path):
    changed, cut, none = (tmp_path / f"{name}.h5" for name in ("changed", "cut", "none"))
    shutil.copy(inputs.pool_file, changed)
    with h5py.File(changed, "r+") as file:
        file["tokens"][10] = (file["tokens"][10] + 1) % 90
    cut.write_bytes(inputs.pool_file.read_bytes()[:-4000])
    twice = [inputs.pool_file, write_tokens(tmp_path / "twice.h5", inputs.pool[:3])]
    for ranks, pool, message in [
        (1, [changed], rf"{changed}: attribute content_sha256: expected [0-9a-f]{{64}}, found [0-9a-f]{{64}}"),
        (1, [cut], rf"{cut}: expected a whole HDF5 file, found .*truncated"),
        (1, [none], rf"{none}: expected an HDF5 file, found no such file"),
        (2, twice, rf"{twice[1]}: /id, sample 0: expected an id that no other sample has, found {inputs.pool[0].id}, "),
    ]:
        arguments = inputs.arguments(out, "--landmarks", 20, pool=pool)
        said = run(ranks, *arguments, exit_code=BAD_INPUT) if ranks > 1 else run_alone(*arguments, exit_code=BAD_INPUT)
        assert re.search(r"rank \d \(.+\): " + message, said), said
    assert left_over(out) == [] and not out.exists()


def test_a_finished_result_is_not_replaced_unasked(command, reference, out):
    out.write_bytes(b"precious")
    said = run_alone(*command("exact-tasks", out), exit_code=RESULT_EXISTS)
    assert f"{out}: expected no file of this name, found a finished result" in said and "--overwrite" in said
    assert out.read_bytes() == b"precious" and left_over(out) == []
    run(2, *command("exact-tasks", out, "--overwrite"))
    assert_same(out, reference("exact-tasks"))


def test_two_jobs_with_the_same_out(command, reference, out):
    with Job(2, *command("kernel-ridge", out)) as first:
        pids = at_unit(first, out, "targets", 5)
        with standing_still(first, pids):  # it lives, and stays where it is until the second job is over
            said = run_alone(*command("kernel-ridge", out), exit_code=LOCKED)
        cause = rf"rank 0 \(.+\): {out}\.lock: expected no other job with this --out, found process {pids[0]} on host"
        assert re.search(cause, said), said
        assert first.wait(60) == 0, first.said()
    assert units_recovered(out) == 0
    assert_same(out, reference("kernel-ridge"))
    assert left_over(out) == []


def test_a_state_of_other_settings_or_inputs_is_refused(inputs, command, reference, out, tmp_path):
    done = interrupt(2, command("kernel-ridge", out), out, "landmarks", 10, 1)
    before = state_of(out).read_bytes()
    other_pool = write_tokens(tmp_path / "pool.h5", [*inputs.pool[:-1], inputs.pool[-1]._replace(id="another")])
    other_model = shutil.copytree(inputs.model, tmp_path / "model")
    weights = bytearray((other_model / "model.safetensors").read_bytes())
    weights[-7] ^= 1
    (other_model / "model.safetensors").write_bytes(weights)
    for change, differing in [
        (["--seed", 44], ["state: seed: expected seed=43 as begun, found seed=44. "]),
        (["--damping", 0.5], ['damping="auto" as begun, found damping=0.5']),
        (["--pool", other_pool], ["pool sha256="]),
        (["--model", other_model], ["model sha256="]),
        (["--unit-flops", "2"], ["unit-flops=1.0 as begun, found "]),
    ]:
        arguments = command("kernel-ridge", out)
        for option, value in [change]:
            if option in arguments:
                arguments[arguments.index(option) + 1] = value
            else:
                arguments += [option, value]
        said = run_alone(*arguments, exit_code=STATE_MISMATCH)
        assert all(part in said for part in [f"{out}.state: ", *differing, "or repeat the earlier settings"]), said
    assert state_of(out).read_bytes() == before
    run(3, *command("kernel-ridge", out, "--select", "5%", "--stall-timeout", 60))  # these may change
    assert units_recovered(out) == done
    assert_same(out, reference("kernel-ridge"))


def test_damaged_units_are_computed_again(command, reference, out):
    """A unit whose rows do not fit their checksum counts as not done; so does one whose mark is not 1."""
    done = interrupt(2, command("kernel-ridge", out), out, "pool", 40, 0)
    with h5py.File(state_of(out), "r+") as file:
        first, second, third = np.flatnonzero(file["landmarks/done"][()])[:3]
        file["landmarks/influence"][first] += np.float32(1e-3)  # units are single rows
        file["landmarks/checksum"][second] ^= np.uint64(1)
        file["landmarks/done"][third] = 7
        file["pool/norm"][np.flatnonzero(file["pool/done"][()])[0]] = 0
    run(2, *command("kernel-ridge", out))
    assert units_recovered(out) == done - 4
    assert_same(out, reference("kernel-ridge"))


def test_a_state_file_that_cannot_be_read(command, reference, out):
    interrupt(2, command("kernel-ridge", out), out, "landmarks", 5, 0)
    whole = state_of(out).read_bytes()
    for damaged in (b"not a state file", whole[: len(whole) // 2]):
        state_of(out).write_bytes(damaged)
        said = run(2, *command("kernel-ridge", out), exit_code=STATE_MISMATCH)
        assert f"{out}.state: expected a whole HDF5 file, found " in said and f"Remove {out}.state to start over" in said
    state_of(out).unlink()
    run(2, *command("kernel-ridge", out))
    assert_same(out, reference("kernel-ridge"))


def test_files_of_interrupted_writes_are_replaced(command, reference, out):
    for suffix in (".partial", ".state.new", ".lock"):
        out.with_name(out.name + suffix).write_bytes(b"half of something" * 100_000)
    run(2, *command("exact-tasks", out))
    assert_same(out, reference("exact-tasks"))
    assert left_over(out) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_known_to_be_too_small(inputs, small_disk):
    arguments = inputs.arguments(small_disk / "weights.h5", "--sketch", "rademacher", "--landmarks", 80)
    for command in ([], ["plan"]):
        said = run_alone(*command, *arguments, exit_code=TOO_LARGE)
        assert re.search(r"rank 0 \(.+\): plan: disk: expected at least .+ free, found .+\. Give --out a place on a larger disk", said)
        assert ("This run does not fit" in said) == bool(command)
    assert not list(small_disk.iterdir())


def test_a_disk_that_fills_up_during_the_run(command, reference, small_disk):
    out, filler = small_disk / "weights.h5", small_disk / "filler"
    arguments = command("kernel-ridge", out)
    with Job(2, *arguments) as job:
        at_unit(job, out, "targets", 10)
        with open(filler, "wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(4096))
        assert job.wait(60) == TOO_LARGE, job.said()
        assert re.search(rf"rank \d \(.+\): {out}\.\w+: .*could not write it.*0 MiB free there", job.said()), job.said()
    assert not out.exists()
    filler.unlink()
    done = units_done(out)
    run(2, *arguments)
    assert units_recovered(out) == done >= 10
    assert_same(out, reference("kernel-ridge"))
