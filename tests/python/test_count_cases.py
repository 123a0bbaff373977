"""The closing line of jobs/test.sh, from files as CTest, pytest and Boost.Test write them."""

import subprocess
import sys

import count_cases

FAILED = "<failure message='x'/>"


def write(path, *cases):
    inner = "".join(f"<testcase name='{i}' {attributes}>{child}</testcase>" for i, (attributes, child) in enumerate(cases))
    path.write_text(f"<testsuite>{inner}</testsuite>")


def entries(path, **status):
    path.write_text("<testsuite>" + "".join(f"<testcase name='{n}' status='{s}'/>" for n, s in status.items()) + "</testsuite>")


def test_cases_of_all_entries(tmp_path):
    entries(tmp_path / "ctest.xml", unit="run", python="fail", fixture="run")
    write(tmp_path / "unit.xml", ("", ""), ("", ""), ("", "<skipped/>"))  # what --run_test leaves out counts for nothing
    write(tmp_path / "python.xml", ("", ""), ("", FAILED), ("", "<error/>"))
    write(tmp_path / "earlier.xml", ("", ""))  # of an entry that was not run
    assert count_cases.count(tmp_path / "ctest.xml", tmp_path) == (3, 2)


def test_an_entry_that_failed_without_a_failed_case(tmp_path):
    entries(tmp_path / "ctest.xml", killed="fail", cut="fail", absent="notrun", crashed="fail")
    (tmp_path / "cut.xml").write_text("<testsuite><testcase")
    write(tmp_path / "crashed.xml", ("", ""))
    assert count_cases.count(tmp_path / "ctest.xml", tmp_path) == (1, 4)


def test_the_line(tmp_path):
    entries(tmp_path / "ctest.xml", unit="run")
    write(tmp_path / "unit.xml", ("", ""))
    for ctest, line in (("ctest.xml", "1 passed, 0 failed\n"), ("none.xml", "0 passed, 0 failed\n")):
        command = [sys.executable, count_cases.__file__, tmp_path / ctest, tmp_path]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == line
