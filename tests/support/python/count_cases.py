"""The closing line of jobs/test.sh: how many cases passed and failed, of all entries that CTest ran.

    count_cases.py CTEST.xml DIRECTORY

CTEST.xml is what `ctest --output-junit` wrote, and DIRECTORY has the cases of an entry in NAME.xml. An entry that failed
although none of its cases did, as one that was killed, is a failed case.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree


def elements(path: Path) -> list[ElementTree.Element]:
    """The cases in a JUnit file; none where it is missing or was cut off."""
    try:
        return list(ElementTree.parse(path).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return []


def count(ctest: Path, directory: Path) -> tuple[int, int]:
    """(passed, failed)"""
    passed = failed = 0
    for entry in elements(ctest):
        cases = [{child.tag for child in case} for case in elements(directory / f"{entry.get('name')}.xml")]
        bad = sum(1 for tags in cases if tags & {"failure", "error"})
        passed += sum(1 for tags in cases if not tags & {"failure", "error", "skipped"})
        failed += bad or entry.get("status") in ("fail", "notrun")
    return passed, failed


if __name__ == "__main__":
    print("{} passed, {} failed".format(*count(*map(Path, sys.argv[1:]))))
