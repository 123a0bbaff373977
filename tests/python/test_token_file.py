import hashlib
import json

import chat_models
import numpy as np
import pytest
from idistill import token_file
from idistill.token_file import TokenFile


def content_sha256(samples) -> str:
    """The definition, written down once more."""
    digests, position = b"", 0
    for start in range(0, len(samples), 65_536):
        block = samples[start : start + 65_536]
        lengths = [len(tokens) for _, _, tokens, _ in block]
        offsets = position + np.concatenate(([0], np.cumsum(lengths)))
        position = offsets[-1]
        data = b"".join(tokens.astype("<i4").tobytes() for _, _, tokens, _ in block)
        data += b"".join(mask.astype("u1").tobytes() for _, _, _, mask in block)
        data += offsets.astype("<i8").tobytes()
        data += b"".join(sample_id.encode() + b"\0" for sample_id, _, _, _ in block)
        data += b"".join(source.encode() + b"\0" for _, source, _, _ in block)
        digests += hashlib.sha256(data).digest()
    return hashlib.sha256(digests).hexdigest()


@pytest.mark.parametrize("count", [0, 1, 65_536, 65_537])
def test_token_file_holds_its_samples_and_their_hash(count, tmp_path):
    rng = np.random.default_rng(count)
    samples = [
        (f"ü{i}", f"s{i % 3}", rng.integers(0, 99, i % 4, dtype=np.int32), rng.integers(0, 2, i % 4, dtype=np.uint8))
        for i in range(count)
    ]
    with token_file.TokenFileWriter(tmp_path / "out.h5", "f" * 64, 128) as writer:
        for sample in samples:
            writer.append(*sample)
    with TokenFile(tmp_path / "out.h5") as file:
        assert file.attributes["content_sha256"] == content_sha256(samples) == file.content_sha256()
        assert file.ids == [sample[0] for sample in samples]
        assert file.sources == [sample[1] for sample in samples]
        for i in list(range(min(count, 8))) + list(range(max(0, count - 8), count)):
            assert file[i][0].tolist() == samples[i][2].tolist()
            assert file[i][1].tolist() == samples[i][3].tolist()


def test_tokenizer_hash_sees_content_and_not_layout():
    text = chat_models.chatml().backend_tokenizer.to_str()
    tokenizer = json.loads(text)
    expected = token_file.tokenizer_sha256(text)
    assert token_file.tokenizer_sha256(json.dumps(tokenizer, sort_keys=True)) == expected

    older = json.loads(text)
    older["model"]["merges"] = [" ".join(merge) for merge in tokenizer["model"]["merges"]]
    assert token_file.tokenizer_sha256(json.dumps(older)) == expected

    swapped = json.loads(text)
    swapped["model"]["merges"][:2] = reversed(tokenizer["model"]["merges"][:2])
    plain = json.loads(text)
    plain["added_tokens"][0]["special"] = False
    moved = json.loads(text)
    moved["added_tokens"][0]["id"] = 9999
    hashes = {token_file.tokenizer_sha256(json.dumps(changed)) for changed in (swapped, plain, moved)}
    assert len(hashes | {expected}) == 4
