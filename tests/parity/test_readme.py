"""The README's table of options is what the program says of itself."""

import os
import re
import subprocess
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
OPTION = re.compile(r"^  (?:-h, )?--([a-z-]+)", re.M)


def test_every_option_is_documented():
    program = os.environ["IDISTILL_PROGRAM"]
    help_text = subprocess.run([program, "--help"], check=True, capture_output=True, text=True).stdout
    documented = set(re.findall(r"^\| `(?:-h, )?--([a-z-]+)", README.read_text(), re.M))
    assert set(OPTION.findall(help_text)) == documented


def test_defaults_agree():
    program = os.environ["IDISTILL_PROGRAM"]
    help_text = " ".join(subprocess.run([program, "--help"], check=True, capture_output=True, text=True).stdout.split())
    for row in re.findall(r"^\| `--.*?` \| (.*) \|$", README.read_text(), re.M):
        assert " ".join(row.replace("\\|", "|").split()) in help_text
