import json

import chat_models
import pytest
import tiny_models
import torch
from idistill import answers
from idistill.model_tokenizer import load_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig


@pytest.mark.parametrize(
    "said, sample, same",
    [
        ("2 + 3 = 5\nThe answer is 1,005.", "So 1005.\nThe answer is 1005.", True),
        ("The answer is 4. The answer is 6.", "The answer is 6.", True),
        ("The answer is 4.", "The answer is 6.", False),
        ("the  Isaac Newton!", "Isaac Newton", True),
        ("Isaac", "Isaac Newton", False),
        ("B", "B", True),
        ("A", "A", True),
        ("The", "A", False),
        ("(A)", "A", True),
        ("} ]", "A", False),
        ("The answer is 14.5.", "The answer is 145.", False),
        ("The answer is 18.00.", "The answer is 18.", True),
        ("The answer is -3.", "The answer is 3.", False),
        ("The answer is 0.5.", "The answer is 0.50.", True),
        ("The answer is 1,234.50.", "The answer is 1234.5.", True),
        ("So\nThe answer is 5.\nI hope this helps", "The answer is 5.", True),
        ("well-known", "well known", True),
        ("100", "1", False),
    ],
)
def test_answers_that_are_the_same(said, sample, same):
    assert (answers.normalised(said) == answers.normalised(sample)) == same


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("answers") / "model"
    chat_models.save("chatml", directory)
    torch.manual_seed(3)
    sizes = {**tiny_models.SIZES, "vocab_size": len(load_tokenizer(directory))}
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).save_pretrained(directory)
    return directory


def test_what_the_model_says_alone_is_right_in_a_batch(model):
    """Questions of several lengths, whose answers are the first words that the model gives each one alone."""
    own, tokenizer = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval(), load_tokenizer(model)
    questions = []
    for count in range(1, 8):
        messages = [{"role": "user", "content": "hello " * count}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
        for _ in range(9):
            prompt = torch.cat([prompt, own(prompt).logits[:, -1:].argmax(-1)], 1)
        questions.append(answers.Question(messages, tokenizer.decode(prompt[0, -9:], skip_special_tokens=True)))
    said = [answers.exact_match(own, tokenizer, [question], longest=9) for question in questions]
    assert said == [1.0] * 7
    assert answers.exact_match(own, tokenizer, questions, at_once=3, longest=9) == 1.0
    wrong = [question._replace(answer="no such answer") for question in questions[:3]]
    assert answers.exact_match(own, tokenizer, wrong + questions[3:], at_once=4, longest=9) == pytest.approx(4 / 7)


def test_questions_are_samples_that_end_with_an_answer(tmp_path):
    rows = [{"prompt": "a", "completion": "b"}, {"messages": [{"role": "user", "content": "c"}]}, {"prompt": "d", "completion": "e"}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [question.answer for question in answers.read_questions(tmp_path / "q.jsonl", None)] == ["b", "e"]
    assert len(answers.read_questions(tmp_path / "q.jsonl", 1)) == 1
    (tmp_path / "q.jsonl").write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(ValueError, match="no sample that ends with an assistant's message"):
        answers.read_questions(tmp_path / "q.jsonl", None)
