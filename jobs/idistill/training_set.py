"""What is trained on: the selected samples as conversations and as the tokens and labels that influence was computed on."""

from pathlib import Path
from typing import NamedTuple

from idistill.chat_labels import ChatEncoder, Conversation
from idistill.model_tokenizer import load_tokenizer
from idistill.result import Result
from idistill.rows import Place, Reading, naming
from idistill.samples import Sample
from idistill.selected_samples import find_samples
from idistill.training import IGNORED, Example

BATCH = 128  # samples that are tokenised at once


class TrainingSample(NamedTuple):
    place: Place
    sample: Sample
    example: Example  # with the weight

    def labels(self) -> list[int]:
        """The tokens, IGNORED where they carry no label."""
        return [token if labelled else IGNORED for token, labelled in zip(self.example.tokens.tolist(), self.example.mask.tolist())]


class TrainingSet(NamedTuple):
    model: Path
    samples: list[TrainingSample]  # in order of selection
    without_labels: int  # selected ones that are left out: this model's template or the maximum length leaves nothing to learn
    other_lengths: int  # samples with another number of tokens than in the run


def training_set(
    path: Path, pool: list[Path], model: Path | None, max_length: int, effective: bool, reading: Reading = Reading()
) -> TrainingSet:
    """For a model of another tokenizer or template too; without one, for the run's, with the tokens of the run.

    Raises ValueError and OSError.
    """
    with Result(path) as result:
        selection = result.selection()
        tokens = result["tokens"]
        directory = model or Path(result.setting("model"))
    if not directory.is_dir():
        raise ValueError(f"{directory}: is no directory; expected the model{'' if model else ' of the run'}: give --model DIR")
    found = find_samples(pool, {selected.id for selected in selection}, reading)
    encoder = ChatEncoder(load_tokenizer(directory), max_length)
    samples, without_labels, other_lengths = [], 0, 0
    for start in range(0, len(selection), BATCH):
        part = selection[start : start + BATCH]
        parsed = [found[selected.id].sample for selected in part]
        encoded = encoder.encode([_rendered(encoder, found[own.id].place, own) for own in parsed])
        for selected, sample, own in zip(part, parsed, encoded):
            place, length = found[selected.id].place, int(tokens[selected.row])
            if own.problem:
                raise ValueError(f"{place}: {own.problem}")
            if len(own.tokens) != length:
                other_lengths += 1
                if model is None:
                    raise ValueError(f"{place}: sample '{selected.id}' has {len(own.tokens)} tokens, the result says {length}; expected "
                                     "the --max-length of prepare.py and the run's model as it was")  # fmt: skip
            if own.without_labels:
                without_labels += 1
                continue
            weight = selected.effective_weight if effective else selected.weight
            samples.append(TrainingSample(place, sample, Example(own.tokens, own.label_mask, weight)))
    if not samples:
        raise ValueError(f"{path}: no selected sample has labels for {directory}; expected at least one")
    mean = sum(own.example.weight for own in samples) / len(samples)
    samples = [own._replace(example=own.example._replace(weight=own.example.weight / mean)) for own in samples]
    return TrainingSet(directory.resolve(), samples, without_labels, other_lengths)


def _rendered(encoder: ChatEncoder, place: Place, sample: Sample) -> Conversation:
    with naming(place):
        return encoder.render(sample)
