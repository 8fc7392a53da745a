import json
import struct

import pytest

from lab.data.llama_tokenizer import convert
from lab.data.tokenizer import Tokenizer, shipped_tokenizers
from lab.errors import UserError
from lab.prepare import main


def test_the_command_makes_the_shipped_tokenizer_again(tmp_path, capsys):
    output = tmp_path / "new" / "tokenizer.json"
    assert main(["tokenizer", "--vocabulary", "1024", "--output", str(output)]) == 0
    shipped = shipped_tokenizers() / "sotu_1k" / "tokenizer.json"
    assert json.loads(output.read_text()) == json.loads(shipped.read_text())
    printed = capsys.readouterr().out
    assert "vocabulary 1024" in printed
    assert "characters per token on sotu validation 3.007" in printed
    assert Tokenizer(str(output)).digest in printed
    assert [path.name for path in output.parent.iterdir()] == ["tokenizer.json"]


def test_an_existing_file_is_kept_unless_overwriting_is_asked_for(tmp_path, capsys):
    output = tmp_path / "tokenizer.json"
    output.write_text("precious")
    command = ["tokenizer", "--vocabulary", "300", "--output", str(output)]
    assert main(command) == 1
    assert output.read_text() == "precious"
    error = capsys.readouterr().err
    assert error == f"{output}: exists; give another --output, or --overwrite to replace it\n"
    assert main([*command, "--overwrite"]) == 0
    assert Tokenizer(str(output)).vocabulary == 300


def test_a_vocabulary_that_is_too_small_is_one_line_and_exit_code_1(tmp_path, capsys):
    output = tmp_path / "tokenizer.json"
    assert main(["tokenizer", "--vocabulary", "256", "--output", str(output)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not output.exists()


def test_an_output_that_cannot_be_written_is_one_line_and_exit_code_1(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    output = tmp_path / "file" / "tokenizer.json"
    assert main(["tokenizer", "--vocabulary", "300", "--output", str(output)]) == 1
    assert capsys.readouterr().err.startswith(f"{output}: ")


def field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def piece(text: str, score: float, kind: int) -> bytes:
    return field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([3 << 3, kind]))


SPECIAL = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3)
BYTES = b"".join(piece(f"<0x{byte:02X}>", 0, 6) for byte in range(256))
# "ab" is a better union than "bc", so "abc" begins with "ab"; no two pieces make "abc".
LETTERS = [("ab", -1.0), ("bc", -2.0), ("a", -3.0), ("b", -4.0), ("c", -5.0), ("▁", -6.0)]
MODEL = SPECIAL + BYTES + b"".join(piece(text, score, 1) for text, score in LETTERS)


def test_a_sentencepiece_model_keeps_its_ids_and_merges_by_score(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(MODEL + field(2, b"settings of the training"))
    output = tmp_path / "tokenizer.json"
    arguments = ["--model", str(tmp_path / "tokenizer.model"), "--output", str(output)]
    assert main(["llama-tokenizer", *arguments]) == 0
    tokenizer = Tokenizer(str(output), "</s>", vocabulary=259 + 6)
    ids = {text: 259 + index for index, (text, _) in enumerate(LETTERS)}
    assert tokenizer.end_of_document == 2
    assert tokenizer.encode("abc").tolist() == [ids["▁"], ids["ab"], ids["c"]]
    assert tokenizer.encode("é").tolist() == [ids["▁"], 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.decode(tokenizer.encode("abc é")) == "abc é"


# Made with the package sentencepiece from the source file that data/README.md names.
LLAMA_IDS = {
    "The Congress shall have Power": [415, 8463, 4579, 506, 8442],
    "  two  spaces\n\tand a tab": [259, 989, 28705, 10599, 13, 12, 391, 264, 7683],
    "naïve 日本 😀 <s>": [1879, 28920, 333, 28705, 29142, 29119, 28705, 30575, 523, 28713, 28767],
}


@pytest.mark.parametrize(("text", "ids"), LLAMA_IDS.items())
def test_the_shipped_llama_tokenizer_gives_the_ids_of_sentencepiece(text, ids):
    assert Tokenizer("llama_32k/tokenizer.json", "</s>").encode(text).tolist() == ids


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (MODEL[:-3], r"not a SentencePiece model"),
        (b"\xff\xff", r"not a SentencePiece model"),
        (b'{"model": 1}', r"not a SentencePiece model"),
        (b"", r"its first tokens are not <unk>, <s>, </s>"),
        (BYTES, r"its first tokens are not <unk>, <s>, </s>"),
        (SPECIAL, r"lacks the 256 byte tokens"),
    ],
)
def test_a_file_that_is_no_llama_model_is_refused(tmp_path, content, message):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"tokenizer\.model: {message}"):
        convert(path)


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"absent\.model: No such file or directory"):
        convert(tmp_path / "absent.model")
