"""Files as users have them: their formats, names and sources, and what is said of one that cannot be read."""

import gzip
import json
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from idistill import json_array
from idistill.files import find_files
from idistill.formats import count_rows, read_file
from idistill.json_array import Elements
from idistill.rows import Reading, sample_id
from idistill.samples import read_rows, read_samples
from preparing import assistant, default_id, user, write_lines

ROWS = [{"prompt": f"höre, \"{i}\"\n", "completion": "ja"} for i in range(5)]
ASKED = [[user(row["prompt"]), assistant("ja")] for row in ROWS]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def zstd(data: bytes) -> bytes:
    return bytes(pyarrow.compress(data, codec="zstd", asbytes=True))


def touch(directory: Path, *names: str) -> list[Path]:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(LINES)
    return [directory / name for name in names]


def sources(*inputs: Path, **reading) -> list[str]:
    return [file.origin.source for file in find_files(inputs, Reading(**reading))]


def refused(*inputs: Path, **reading) -> str:
    with pytest.raises(ValueError) as error:
        list(read_rows(*inputs, reading=Reading(**reading)))
    return str(error.value)


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, data", [
    ("in.jsonl", LINES), ("in.json", LINES), ("in.txt", LINES), ("in", LINES), ("in.jsonl", b"\xef\xbb\xbf" + LINES),
    ("in.json", json.dumps(ROWS).encode()), ("in.json", b"\xef\xbb\xbf " + json.dumps(ROWS, indent=2, ensure_ascii=False).encode()),
    ("in.jsonl.gz", gzip.compress(LINES)), ("in.json.gz", gzip.compress(json.dumps(ROWS).encode())),
    ("in.jsonl.gz", gzip.compress(LINES[:30]) + gzip.compress(LINES[30:])), ("in.jsonl.zst", zstd(LINES)),
    ("in.csv", 'prompt,completion\n' + "".join(f'"höre, ""{i}""\n",ja\n' for i in range(5))),
    ("in.tsv", 'prompt\tcompletion\r\n' + "".join(f'"höre, ""{i}""\n"\tja\r\n' for i in range(5))),
    ("in.csv.gz", gzip.compress(('\ufeffprompt,completion,system\n' + "".join(f'"höre, ""{i}""\n",ja,\n' for i in range(5))).encode())),
])  # fmt: skip
def test_formats(name, data, tmp_path):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    found = list(read_samples(path))
    assert [sample.messages for sample in found] == ASKED
    assert [sample.id.rpartition("-")[0] for sample in found] == [f"in-{i}" for i in range(1, 6)]
    assert {sample.source for sample in found} == {"in"} and found[0].unused == []
    assert [count_rows(file) for file in find_files([path])] == [5]


def test_columns_of_json_in_csv(tmp_path):
    (tmp_path / "in.csv").write_text('messages\n"[{""role"": ""user"", ""content"": ""a""}, {""role"": ""assistant"", ""content"": ""b""}]"\n')
    assert next(read_samples(tmp_path / "in.csv")).messages == [user("a"), assistant("b")]


def test_default_ids_of_json_are_of_what_is_written(tmp_path):
    (tmp_path / "in.json").write_text(f"[{json.dumps(ROWS[0])}, {json.dumps(ROWS[1])}]")
    assert [sample.id for sample in read_samples(tmp_path / "in.json")] == [
        default_id("in", number, json.dumps(row)) for number, row in enumerate(ROWS[:2], 1)
    ]


@pytest.mark.parametrize("block", [1, 7, 64])
def test_json_arrays_in_pieces_are_what_json_reads(block, tmp_path, monkeypatch):
    monkeypatch.setattr(json_array, "BLOCK", block)
    draw = random.Random(block)
    values = [draw.choice([12345, -1.5e3, "ü\ud800\"\\[]{},", None, True, [], [[1], {"a": "]"}], {"k": [1, {"x": ","}]}, {}]) for _ in range(200)]
    for indent in (None, 2):
        (tmp_path / "in.json").write_text(json.dumps(values, indent=indent))
        with open(tmp_path / "in.json") as file:
            assert [json.loads(element) for element in Elements(file)] == values
    for text, problem in [("[1, 2", "a comma or the end of the array after row 2, found the end"), ("[1, ]", "row 2: not valid JSON"),
                          ("[1] [2]", "after row 1: something follows"), ("[1 2]", "after row 1, found '2'"), ("[", "row 1: not valid"),
                          ('[{"a": tru}, ' + "1, " * 500 + "1]", "row 1: not valid JSON (Expecting value)"), ("{}", "the start of")]:  # fmt: skip
        (tmp_path / "in.json").write_text(text)
        with open(tmp_path / "in.json") as file, pytest.raises(ValueError) as error:
            list(Elements(file))
        assert problem in str(error.value)


def test_an_array_is_read_piece_by_piece(tmp_path):
    """Its first rows come before its end is read, even where that is broken."""
    (tmp_path / "in.json").write_text("[" + json.dumps(ROWS[0]) + ", " + json.dumps({"pad": "x" * (3 << 20)}) + ", {")
    rows = read_rows(tmp_path / "in.json")
    assert json.loads(next(rows).content) == ROWS[0] and next(rows)
    with pytest.raises(ValueError, match=r"in\.json: row 3: not valid JSON"):
        next(rows)


def test_a_row_of_an_array_that_is_no_utf8_is_a_bad_row(tmp_path):
    (tmp_path / "in.json").write_bytes(b'[{"prompt": "\xff", "completion": "a"}, {"prompt": "b", "completion": "c"}]')
    with pytest.raises(ValueError, match=r"in\.json: row 1: not valid UTF-8"):
        list(read_samples(tmp_path / "in.json"))
    assert len(list(read_rows(tmp_path / "in.json"))) == 2


@pytest.mark.parametrize("name, data, problem", [
    ("bad.jsonl", gzip.compress(LINES), "found gzip, whose name ends with .gz"),
    ("bad.jsonl", zstd(LINES), "found zstd, whose name ends with .zst"),
    ("bad.jsonl", b"\x89HDF\r\n", "found HDF5, as token files are"),
    ("bad.jsonl", b"PAR1", "found Parquet, whose name ends with .parquet"),
    ("bad.csv", b"PK\x03\x04", "found zip"),
    ("bad.jsonl", "\ufeff{}".encode("utf-16-le"), "found text in UTF-16"),
    ("bad.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS"),
    ("bad.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "`git lfs pull`"),
    ("bad.jsonl.gz", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "`git lfs pull`"),
    ("bad.parquet", b"nothing of it", "cannot be read: "),
    ("bad.jsonl.gz", LINES, "it is not packed as .gz says: rename it"),
    ("bad.jsonl.gz", gzip.compress(LINES * 9)[:-20], "it may have been cut short: get it again"),
    ("bad.jsonl.zst", zstd(LINES)[:-9], "it may have been cut short: get it again"),
    ("bad.parquet.zst", zstd(b"PAR1"), "is packed; unpack it"),
    ("bad.csv", b"prompt,completion\na,b\nc\n", "row 2 (line 3): has 1 cells, expected 2"),
    ("bad.csv", b"a,a\n1,2\n", "names 'a' several times"),
    ("bad.csv", b"prompt,completion\n\xff,b\n", "expected UTF-8: convert the file"),
    ("bad.csv", b'prompt,completion\n"a,b\n', "cannot be read: unexpected end of data"),
    ("bad.json", b"[{}, {]", "row 2: not valid JSON"),
    ("bad.json", b'{\n  "prompt": "a"\n}\n', "is one JSON object over several lines; expected a JSON array"),
])  # fmt: skip
def test_a_bad_file_among_many_is_named(name, data, problem, tmp_path):
    good = touch(tmp_path, "a.jsonl", "z.jsonl")
    (tmp_path / name).write_bytes(data)
    message = refused(good[0], tmp_path / name, good[1])
    assert message.startswith(f"{tmp_path / name}: ") and problem in message


def test_a_whole_file_is_not_to_be_got_again(tmp_path):
    (tmp_path / "bad.csv.gz").write_bytes(gzip.compress(b'prompt,completion\n"a,b\n'))
    assert refused(tmp_path / "bad.csv.gz").endswith("cannot be read: unexpected end of data")


# --- names ------------------------------------------------------------------------------------------------------------


def test_directories_and_globs(tmp_path):
    touch(tmp_path, "a/x.jsonl", "a/deep/y.jsonl.gz", "a/README.md", "a/.cache/z.jsonl", "b/x.parquet", "b/x.csv")
    assert [file.path.name for file in find_files([tmp_path / "a"])] == ["y.jsonl.gz", "x.jsonl"]
    assert [file.path.name for file in find_files([tmp_path / "*" / "x.*"])] == ["x.jsonl", "x.csv", "x.parquet"]
    assert [file.path.name for file in find_files([tmp_path / "**" / "*.jsonl"])] == ["x.jsonl"]
    assert "several kinds (.csv, .parquet)" in refused(tmp_path / "b")
    assert "without files of samples" in refused(touch(tmp_path, "c/README.md")[0].parent)
    assert "*.jsonl: matches no file" in refused(tmp_path / "*.jsonl")
    assert "none.jsonl: no such file" in refused(tmp_path / "none.jsonl")
    assert "hf download own/set --repo-type dataset" in refused(Path("own/set"))
    assert f"{tmp_path / 'a' / 'x.jsonl'}: given twice" in refused(tmp_path / "a" / "*.jsonl", tmp_path / "a" / "x.jsonl")
    (tmp_path / "[x].jsonl").write_bytes(LINES)  # a file, not a glob
    assert [file.path.name for file in find_files([tmp_path / "[x].jsonl"])] == ["[x].jsonl"]


def test_directory_of_parquet(tmp_path):
    (tmp_path / "set").mkdir()
    for part in range(3):
        table = pyarrow.Table.from_pylist(ROWS[part : part + 1])
        pyarrow.parquet.write_table(table, tmp_path / "set" / f"train-{part:05}-of-00003.parquet")
    found = list(read_samples(tmp_path / "set"))
    assert [sample.messages for sample in found] == ASKED[:3] and {sample.source for sample in found} == {"train"}
    assert [sample.id.rpartition("-")[0] for sample in found] == [f"train-{part:05}-of-00003-1" for part in range(3)]


@pytest.mark.parametrize("name, source", [
    ("train-00000-of-00002.parquet", "train"), ("train-00000-of-00002-0123456789abcdef.parquet", "train"),
    ("math_part_3.jsonl", "math"), ("math.part1.jsonl.gz", "math"), ("code-shard-0007.jsonl", "code"), ("code-00012.jsonl", "code"),
    ("data/part-00003.jsonl", "data"), ("math/part-00000-7a0d3f1e-1b2c-4d5e-8f90-a1b2c3d4e5f6-c000.snappy.parquet", "math"),
    ("gsm8k.jsonl", "gsm8k"), ("math-500.jsonl", "math-500"), ("wiki-2024.jsonl", "wiki-2024"), ("party-1.jsonl", "party-1"),
    ("v1.5.jsonl", "v1.5"), ("train.jsonl.zst", "train"),
    ("train_00001_of_00010.parquet", "train"), ("fineweb/007_00003.parquet", "fineweb"),
])  # fmt: skip
def test_shards_are_no_part_of_a_source(name, source, tmp_path):
    assert sources(*touch(tmp_path, name)) == [source]


def test_equal_stems_are_told_apart_by_folders(tmp_path):
    given = touch(tmp_path, "a/train.jsonl", "b/train.jsonl", "b/test.jsonl", "x/c/train.jsonl", "y/c/train.jsonl")
    assert sources(*given) == ["a/train", "b/train", "test", "x/c/train", "y/c/train"]
    assert [file.origin.stem for file in find_files(given)] == sources(*given)
    shards = touch(tmp_path, *(f"{folder}/web-{part:05}-of-2.jsonl" for folder in "ab" for part in range(2)))
    assert sources(*shards) == ["a/web", "a/web", "b/web", "b/web"] and sources(*shards[:2]) == ["web"] * 2
    kinds = find_files(touch(tmp_path, "k/train.jsonl", "k/train.csv"))
    assert [(file.origin.stem, file.origin.source) for file in kinds] == [("train.jsonl", "train"), ("train.csv", "train")]


def test_ids_of_files_that_were_read_until_now_stay(tmp_path):
    """As docs/files.md has always defined them."""
    paths = touch(tmp_path, "train-00000-of-00002.jsonl", "b.jsonl", "v1.5.jsonl", "c")
    line = LINES.splitlines()[0].decode()
    for path in paths:
        row = next(read_rows(path))
        assert sample_id(row, ROWS[0]) == default_id(path.stem, 1, line)
    assert [next(read_file(file)).origin.stem for file in find_files(paths)] == ["train-00000-of-00002", "b", "v1.5", "c"]


def test_sources_that_the_user_names(tmp_path):
    given = touch(tmp_path, "a/train.jsonl", "b/train.jsonl", "b/test.jsonl")
    write_lines(given[0], [{**ROWS[0], "source": "own"}])
    reading = Reading(sources=(("maths", f"{tmp_path}/a/*.jsonl"), ("code", f"{tmp_path}/b")))
    found = list(read_samples(*given, reading=reading))
    assert [sample.source for sample in found] == ["maths"] + ["code"] * 10 and found[0].unused == ["source"]
    assert [sample.source for sample in read_samples(*given)][0] == "own"
    assert "--source x=" in refused(*given, sources=(("x", f"{tmp_path}/c/*"),))
    assert "two names, x and y" in refused(*given, sources=(("x", str(given[0])), ("y", f"{tmp_path}/a")))


# --- LLaMA-Factory's dataset_info.json --------------------------------------------------------------------------------

LISTED = {
    "maths": {"file_name": "maths.json", "columns": {"prompt": "q", "response": "a", "system": "role"}},
    "plain": {"file_name": "sub/plain.jsonl"},
    "chat": {"file_name": "chat.json", "formatting": "sharegpt", "columns": {"messages": "talk"},
             "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "you"}},
    "open": {"file_name": "open.jsonl", "formatting": "openai", "columns": {"messages": "messages"}},
    "better": {"file_name": "better.jsonl", "ranking": True, "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}},
}  # fmt: skip


@pytest.fixture
def listed(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "maths.json").write_text(json.dumps([{"q": "2+2?", "a": "4", "role": "Be brief.", "input": "x"}]))
    write_lines(tmp_path / "sub" / "plain.jsonl", [{"instruction": "2+2?", "input": "Say.", "output": "4", "system": "not named"}])
    (tmp_path / "chat.json").write_text(json.dumps([{"talk": [{"who": "me", "says": "2+2?"}, {"who": "you", "says": "4"}]}]))
    write_lines(tmp_path / "open.jsonl", [{"messages": [user("2+2?"), assistant("4")]}])
    write_lines(tmp_path / "better.jsonl", [{"q": "2+2?", "good": "4", "bad": "5"}])
    (tmp_path / "dataset_info.json").write_text(json.dumps(LISTED))
    return tmp_path / "dataset_info.json"


def test_dataset_info(listed):
    named = listed.with_name("dataset_info.json:maths,plain,chat,open")
    maths, plain, chat, openai = read_samples(named)
    asked = [user("2+2?"), assistant("4")]
    assert maths.messages == [{"role": "system", "content": "Be brief."}, *asked]
    assert [maths.source, plain.source, chat.source, openai.source] == ["maths", "plain", "chat", "open"]
    assert maths.unused == ["input"] and plain.unused == ["system"]  # columns that it does not name, as LLaMA-Factory
    assert plain.messages == [user("2+2?\nSay."), assistant("4")]
    assert chat.messages == asked and openai.messages == asked
    (better,) = read_samples(listed.with_name("dataset_info.json:better"), reading=Reading("chosen"))
    assert better.messages == asked and better.unused == ["bad"]


def test_dataset_info_of_plain_text(listed):
    listed.write_text(json.dumps({"pt": {"file_name": "pt.json", "columns": {"prompt": "body"}}}))
    listed.with_name("pt.json").write_text('[{"body": "once upon", "text": "no"}]')
    (own,) = read_samples(listed, reading=Reading("text"))
    assert (own.text, own.messages, own.unused) == ("once upon", [], ["text"])


@pytest.mark.parametrize("change, problem", [
    ({"maths": {"hf_hub_url": "x/y"}}, "maths: has no file_name, found hf_hub_url: it is on a hub"),
    ({"maths": {"file_name": "maths.json", "num_samples": 5}}, "maths: 'num_samples' cannot be followed"),
    ({"maths": {"file_name": "maths.json", "formatting": "chatml"}}, "maths: the formatting is 'chatml', expected alpaca, sharegpt, openai"),
    ({"maths": {"file_name": "maths.json", "columns": {"images": "i"}}}, "maths: the column 'images' cannot be read"),
    ({"maths": {"file_name": "maths.json", "formatting": "sharegpt", "tags": {"rol_tag": "x"}}}, "maths: the tag 'rol_tag' is not known"),
    ({"maths": {"file_name": "none.json"}}, "none.json: no such file"),
    ({}, "better: is a data set of preferences; to take the chosen answers, give --form chosen"),
])  # fmt: skip
def test_dataset_info_that_cannot_be_followed(change, problem, listed):
    listed.write_text(json.dumps(LISTED | change))
    assert problem in refused(listed)


def test_a_hub_is_thought_of_where_no_path_was_mistyped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert "hf download org/data --repo-type dataset" in refused(Path("org/data"))
    assert "hf download" not in refused(Path("data/train.jsonl"))


def test_dataset_info_that_is_none(listed, tmp_path):
    assert "has no data set 'math'; expected some of maths, plain" in refused(listed.with_name("dataset_info.json:math"))
    listed.write_text("[")
    assert "dataset_info.json: not valid JSON" in refused(listed)
    listed.write_text("{}")
    assert "expected data sets by name" in refused(listed)
    listed.write_text('{"features": {}, "splits": {}}')
    assert "to read a saved dataset, name its directory" in refused(listed)
    assert "name that file to read the data sets that it lists" in refused(tmp_path)
