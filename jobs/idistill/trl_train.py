"""Trains on the samples beside this file with TRL: what jobs/export.py --for trl copies.

    python train.py --config training.yaml [--learning_rate 1e-5 ...]

Options are those of TRL's SFTConfig and ModelConfig (--use_peft true trains an adapter). The loss of a step is the mean over
its samples of weight times mean token loss, the loss whose influence was computed; SFTTrainer's own is a mean over tokens, in
which long answers count more.
"""

import sys
from pathlib import Path

import torch
from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, SFTConfig, SFTTrainer, TrlParser, get_peft_config

READERS = {".parquet": "parquet", ".jsonl": "json"}


class SampleMeanTrainer(SFTTrainer):
    """Samples without a weight have weight 1."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # a mean over samples: Trainer divides it by the number of micro-batches
        self._collate_tokens, self.data_collator = self.data_collator, self._collate

    def _collate(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        weights = torch.tensor([example.get("weight", 1.0) for example in examples])
        return {**self._collate_tokens(examples), "weight": weights}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"][:, 1:]
        outputs = model(**{name: value for name, value in inputs.items() if name not in ("labels", "weight")}, use_cache=False)
        losses = torch.nn.functional.cross_entropy(outputs.logits[:, :-1].float().transpose(1, 2), labels, reduction="none")
        loss = (inputs["weight"] * losses.sum(1) / (labels != -100).sum(1).clamp(min=1)).mean()
        return (loss, outputs) if return_outputs else loss


def main():
    script, arguments, model = TrlParser((ScriptArguments, SFTConfig, ModelConfig)).parse_args_and_config()
    if arguments.packing or arguments.padding_free:
        sys.exit("train.py: packing and padding_free put several samples into one row, where a loss by sample cannot be told")
    arguments.remove_unused_columns = False  # SFTTrainer would remove the weight
    arguments.model_init_kwargs = {"dtype": model.dtype, "attn_implementation": model.attn_implementation}
    data = load_dataset(READERS[Path(script.dataset_name).suffix], data_files=script.dataset_name, split="train")
    trainer = SampleMeanTrainer(model.model_name_or_path, arguments, train_dataset=data, peft_config=get_peft_config(model))
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.save_model()


if __name__ == "__main__":
    main()
