"""Ranks that are not in the same place: other settings, or one inside a collective call of HDF5 that never returns."""

import subprocess

from interrupting import left_over
from program import Job, run_each

USAGE, RESTART_ME = 2, 75

# Stops rank 2 for good when it calls H5Fflush for the second time.
STOP_IN_FLUSH = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
int H5Fflush(long file, int scope) {
    static int calls = 0;
    const char* rank = getenv("OMPI_COMM_WORLD_RANK");
    if (rank && !strcmp(rank, "2") && ++calls == 2) raise(SIGSTOP);
    return ((int (*)(long, int))dlsym(RTLD_NEXT, "H5Fflush"))(file, scope);
}
"""


def nodes(tmp_path, *settings):
    """A folder for each rank, with its run.toml if it has one."""
    folders = []
    for i, text in enumerate(settings):
        folder = tmp_path / f"node{i}"
        folder.mkdir()
        if text is not None:
            (folder / "run.toml").write_text(text)
        folders.append(folder)
    return folders


def test_a_settings_file_that_one_rank_does_not_have(inputs, tmp_path):
    for missing, rank in [(0, 0), (1, 1)]:
        base = tmp_path / f"missing{missing}"
        base.mkdir()
        folders = nodes(base, *[None if i == missing else "stall-timeout = 600" for i in range(2)])
        arguments = [*inputs.arguments(base / "w.h5"), "--config", "run.toml"]
        said = run_each(*[(folder, arguments) for folder in folders], exit_code=USAGE, timeout=60)  # at once
        assert f"rank {rank} (" in said and "run.toml" in said, said
        assert not (base / "w.h5").exists()


def test_settings_that_differ_between_ranks(inputs, tmp_path):
    folders = nodes(tmp_path, "seed = 43", "seed = 44")
    out = tmp_path / "w.h5"
    said = run_each(*[(f, [*inputs.arguments(out), "--config", "run.toml"]) for f in folders], exit_code=USAGE)
    assert "settings: seed of rank 1: expected 43 as on rank 0, found 44" in said, said
    assert left_over(out) == [] and not out.exists()


def test_a_rank_that_stops_inside_a_call_of_hdf5(command, tmp_path):
    source, shim = tmp_path / "shim.c", tmp_path / "shim.so"
    source.write_text(STOP_IN_FLUSH)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    out = tmp_path / "weights.h5"
    with Job(3, *command("kernel-ridge", out), "--stall-timeout", 4, environment={"LD_PRELOAD": str(shim)}) as job:
        assert job.wait(60) == RESTART_ME, job.said()
        assert "rank 2 (" in job.said() and "H5Fflush" in job.said(), job.said()
    assert not out.exists()
