import json
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from oracles.redpajama_folder import make_redpajama

from lab.base.commandline import run_command
from lab.base.errors import UserError
from lab.data.llama_tokenizer import convert
from lab.data.sources.documents import SPLITS
from lab.data.sources.file_corpus import Files
from lab.data.sources.redpajama import SUBSETS, RedPajama
from lab.data.tokenizer import Tokenizer, shipped_tokenizers
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.prepare import main


def test_the_command_makes_the_shipped_tokenizer_again(tmp_path, capsys):
    output = tmp_path / "new" / "tokenizer.json"
    main(["tokenizer", "--vocabulary", "1024", "--output", str(output)])
    shipped = shipped_tokenizers() / "sotu_1k" / "tokenizer.json"
    assert json.loads(output.read_text()) == json.loads(shipped.read_text())
    printed = capsys.readouterr().out
    assert "vocabulary 1024" in printed
    assert "characters per token on sotu validation 2.989" in printed
    assert Tokenizer(str(output)).digest in printed
    assert [path.name for path in output.parent.iterdir()] == ["tokenizer.json"]


def test_a_tokenizer_of_own_files_is_trained_on_their_training_split_alone_and_in_turn(tmp_path, capsys):
    corpus = ["data=files"]
    for split, one, two in (
        ("train", "mimimi momomo ", "xyxyxy zuzuzu "),
        ("validation", "held out QQQQQQ ", "QQQQQQ"),
        ("test", "QQQQQQ test ", "QQQQQQ again "),
    ):
        for name, text in (("one", one), ("two", two)):
            (tmp_path / f"{split}_{name}.txt").write_text(text * 400)
        corpus.append(f"data.corpus.{split}={{one:{tmp_path}/{split}_one.txt,two:{tmp_path}/{split}_two.txt}}")

    def words(*options):
        output = tmp_path / f"{len(options)}.json"
        main(["tokenizer", *corpus, "--vocabulary", "263", "--output", str(output), *options])
        vocabulary = Tokenizer(str(output), "<|endoftext|>").library.get_vocab()
        return [token for token in vocabulary if len(token) > 1 and token != "<|endoftext|>"]

    both = "".join(words())
    assert "m" in both
    assert "y" in both
    assert "Q" not in both
    assert "characters per token on files validation" in capsys.readouterr().out
    first_only = "".join(words("--characters", "10"))  # a text is read whole, and after so many signs no further one
    assert "m" in first_only
    assert "y" not in first_only


def test_an_existing_file_is_kept_unless_overwriting_is_asked_for(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(MODEL)
    output = tmp_path / "tokenizer.json"
    output.write_text("precious")
    command = ["llama-tokenizer", "--model", str(tmp_path / "tokenizer.model"), "--output", str(output)]
    with pytest.raises(UserError) as error:
        main(command)
    assert str(error.value) == f"{output}: exists; give another --output, or --overwrite to replace it"
    assert output.read_text() == "precious"
    main([*command, "--overwrite"])
    assert Tokenizer(str(output), "</s>").vocabulary == 265


def test_a_users_mistake_is_one_line_and_exit_code_1(tmp_path, capsys):
    output = tmp_path / "tokenizer.json"
    with pytest.raises(SystemExit) as exit:
        run_command(lambda: main(["tokenizer", "--vocabulary", "256", "--output", str(output)]))
    assert exit.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: vocabulary is 256; give at least 258")
    assert error.count("\n") == 1
    assert not output.exists()


def commands(folder: Path) -> dict[str, list[str]]:
    """Each command that writes one file, on small input."""
    (folder / "tokenizer.model").write_bytes(MODEL)
    (folder / "texts").mkdir()
    for number in range(4):
        (folder / "texts" / f"{number}.txt").write_text(f"text number {number} of a few words " * 40)
    files = ["data=files", f"data.corpus.train={folder}/texts", "data.corpus.held_out=0.25"]
    return {
        "manifest": ["manifest", *files],
        "tokenizer": ["tokenizer", *files, "--vocabulary", "260"],
        "llama-tokenizer": ["llama-tokenizer", "--model", str(folder / "tokenizer.model")],
    }


@pytest.mark.parametrize("command", ["manifest", "tokenizer", "llama-tokenizer"])
def test_no_link_pipe_or_file_beside_is_lost_to_an_output(command, tmp_path):
    typed = commands(tmp_path)[command]
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "made.json.new").write_text("precious")
    for name, told in (("link", "is a link"), ("pipe", "is no file but a pipe"), ("made.json", "is in the way")):
        with pytest.raises(UserError, match=told):
            main([*typed, "--output", str(tmp_path / name), "--overwrite"])
    with pytest.raises(UserError, match="link: exists; give another --output"):
        main([*typed, "--output", str(tmp_path / "link")])
    assert os.readlink(tmp_path / "link") == "nowhere"
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "made.json.new").read_text() == "precious"


@pytest.mark.parametrize("command", ["manifest", "tokenizer", "llama-tokenizer"])
def test_what_a_command_reads_is_not_written_over(command, tmp_path):
    typed = commands(tmp_path)[command]
    source = tmp_path / ("tokenizer.model" if command == "llama-tokenizer" else "texts/0.txt")
    before = source.read_bytes()
    with pytest.raises(UserError, match="is read, too: it would be lost"):
        main([*typed, "--output", str(source), "--overwrite"])
    assert source.read_bytes() == before


def test_a_manifest_does_not_name_itself(tmp_path):
    typed = commands(tmp_path)["manifest"]
    output = tmp_path / "texts" / "manifest.json"
    main([*typed, "--output", str(output)])
    before = output.read_bytes()
    with pytest.raises(UserError, match=r"texts/manifest\.json is read, too"):
        main([*typed, "--output", str(output), "--overwrite"])
    assert output.read_bytes() == before


def test_a_damaged_text_of_validation_is_told_before_a_tokenizer_is_made(tmp_path):
    for name, content in (("train", b"some text " * 99), ("validation", b"\xff broken"), ("test", b"a text")):
        (tmp_path / f"{name}.txt").write_bytes(content)
    keys = [f"data.corpus.{name}={tmp_path}/{name}.txt" for name in SPLITS]
    with pytest.raises(UserError, match=r"validation\.txt: not UTF-8"):
        main(["tokenizer", "data=files", *keys, "--vocabulary", "260", "--output", str(tmp_path / "made.json")])
    assert not (tmp_path / "made.json").exists()


def test_a_tokenizer_without_held_out_text_says_so(tmp_path, capsys):
    output = tmp_path / "made.json"
    main(["tokenizer", "data=biographies", "data.corpus.people=1", "--words", "--output", str(output)])
    assert "validation has no text to try it on" in capsys.readouterr().out
    assert Tokenizer(str(output)).digest


def test_biographies_are_all_written_or_none(tmp_path):
    (tmp_path / "texts" / "test.jsonl").mkdir(parents=True)
    command = ["biographies", "experiment=biographies", "data.corpus.people=2", "--output", str(tmp_path / "texts")]
    with pytest.raises(UserError, match=r"test\.jsonl is a folder: name a file"):
        main([*command, "--overwrite"])
    (tmp_path / "texts" / "test.jsonl").rmdir()
    model = {"type": "WordLevel", "vocab": {"<|endoftext|>": 0, "a": 1}, "unk_token": "missing"}
    end = {"id": 0, "content": "<|endoftext|>", "special": True}
    end |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    (tmp_path / "mute.json").write_text(json.dumps({"version": "1.0", "added_tokens": [end], "model": model}))
    with pytest.raises(UserError, match=r"mute\.json: it cannot spell a text"):
        main([*command, "tokenizer=file", f"tokenizer.path={tmp_path}/mute.json", "tokenizer.vocabulary=2"])
    assert list((tmp_path / "texts").iterdir()) == []


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "tokenizer.model").write_bytes(MODEL)
    output = tmp_path / "file" / "tokenizer.json"
    with pytest.raises(UserError, match=rf"^{tmp_path / 'file'} is a file: name a folder"):
        main(["llama-tokenizer", "--model", str(tmp_path / "tokenizer.model"), "--output", str(output)])


def test_a_manifest_of_files_is_written_and_shown(tmp_path, capsys):
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{name} text")
    keys = [f"data.corpus.{name}={tmp_path / name}.txt" for name in ("train", "validation", "test")]
    output = tmp_path / "manifests" / "mine.json"
    main(["manifest", "data=files", *keys, "--output", str(output)])
    files = Files(manifest=str(output))
    assert files.manifest() == Files(*(str(tmp_path / f"{name}.txt") for name in SPLITS)).manifest()
    assert re.search(r"validation\W+-\W+1\W+15\b", capsys.readouterr().out)


def test_a_manifest_of_redpajama_goes_where_its_corpus_looks_for_it(tmp_path, monkeypatch, capsys):
    urls = make_redpajama(tmp_path / "copy", letters=300_000)
    monkeypatch.chdir(tmp_path)
    command = ["manifest", "data=redpajama", f"data.corpus.urls={urls}"]
    main(command)
    printed = capsys.readouterr().out
    assert all(re.search(rf"{split}\W+{subset}\W+\d", printed) for split in SPLITS for subset in SUBSETS)
    redpajama = RedPajama(str(urls), "data/manifests/redpajama.json")
    assert next(redpajama.documents("train", "wikipedia")).text
    with pytest.raises(UserError, match=r"^data/manifests/redpajama\.json: exists; .*--overwrite"):
        main(command)
    with (urls.parent / "wikipedia" / "wiki.jsonl").open("a") as file:
        file.write('{"text": "one more"}')
    main([*command, "--overwrite"])
    assert RedPajama(str(urls), "data/manifests/redpajama.json").manifest() != redpajama.manifest()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=sotu"], "data=sotu is not made of files: it needs no manifest"),
        (["data=files", "data.corpus.train=a.txt"], "--output is missing: name the manifest.json to write"),
        (["data=redpajama", "data.corpus.urls=a.txt", "--output=m.json"], "a.txt: No such file"),
    ],
)
def test_a_manifest_that_cannot_be_made_is_refused(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        main(["manifest", *arguments])
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


TINY = ["scale.tokens=65_536", "scale.warmup_steps=1", "data.lanes=4", "measure=none"]


def test_blocks_that_were_written_are_those_that_a_run_of_the_same_keys_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["blocks", *TINY, "--processes", "2"])
    (folder,) = (tmp_path / "blocks").iterdir()
    assert capsys.readouterr().out == f"blocks/{folder.name}: 256 blocks; train on them with data.mode=blocks\n"

    def setup(*overrides):
        return Setup(settings_of("train", TrainSettings, [*TINY, *overrides]))

    stream, blocks = setup("data.mode=stream"), setup("data.mode=blocks")
    with pytest.raises(UserError, match=r"no blocks here; make them with python -m lab\.prepare blocks"):
        setup("data.mode=blocks", "data.seed=1")
    assert stream.digest == blocks.digest
    for g in range(256):
        np.testing.assert_array_equal(blocks.data.train.block(g).tokens, stream.data.train.block(g).tokens)


def test_overlap_counts_the_runs_of_words_that_training_has_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for split, text in (
        ("train", "We the People of the United States, in order to form a more perfect Union"),
        ("validation", "a wholly other text that shares nothing with what is trained on, not a word"),
        ("test", "and WE THE PEOPLE of the united states say this"),  # 4 of its 6 runs of five words
    ):
        (tmp_path / f"{split}.txt").write_text(text)
    files = [f"data.corpus.{split}={split}.txt" for split in SPLITS]
    main(["overlap", "data=files", *files, "--words", "5"])
    lines = {line.split()[3]: line for line in capsys.readouterr().out.splitlines() if ".txt" in line}
    assert [lines[f"{split}.txt"].split()[-2] for split in ("validation", "test")] == ["0.000", "50.000"]


def test_blocks_need_a_process():
    with pytest.raises(UserError, match="--processes is 0: give 1 or more"):
        main(["blocks", "--processes", "0"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("tokenizer", "--vocabulary", "1" + "0" * 30, "--output", "made.json"),
        ("tokenizer", "--vocabulary", "300", "--characters", "9" * 5000, "--output", "made.json"),
        ("overlap", "--words", "-" + "1" * 25),
        ("blocks", "--processes", "1e3"),
        ("blocks", "--processes", "2.5"),
    ],
    ids=lambda arguments: arguments[1],
)
def test_a_number_that_is_none_or_too_large_to_count_with_is_told_in_one_line(arguments):
    with pytest.raises(
        UserError, match=r"^argument --\w+: '[-\d.e]{1,40}' is no whole number that 64 bits hold; "
    ) as error:
        main([arguments[0], "data=sotu", *arguments[1:]])
    assert "\n" not in str(error.value)


def test_parts_say_how_many_blocks_the_others_have_left_and_the_last_that_all_are_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for part in (1, 2):
        main(["blocks", *TINY, "--processes", "1", "--part", f"{part}/2"])
    (folder,) = (tmp_path / "blocks").iterdir()
    assert capsys.readouterr().out == (
        f"blocks/{folder.name}: part 1/2 is written; 128 of 256 blocks are missing, of other parts\n"
        f"blocks/{folder.name}: 256 blocks; train on them with data.mode=blocks\n"
    )


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "1/0", "1/-2", "1/2/3", "a/b", "", "1/", "\u0661/2"])
def test_what_is_no_part_is_refused(part):
    with pytest.raises(UserError, match=r"--part is .*: give which of how many, such as 2/8"):
        main(["blocks", "--part", part])


def test_job_scripts_are_written_out_as_they_are_shipped_and_never_over_edited_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["slurm"])
    assert capsys.readouterr().out.startswith(
        "slurm: lab.def, prepare.sbatch, run.sh, sweep.sbatch, train.sbatch; edit"
    )
    shipped = Path(__file__).parents[2] / "slurm"
    assert {path.name: path.read_bytes() for path in Path("slurm").iterdir()} == {
        path.name: path.read_bytes() for path in shipped.iterdir()
    }
    Path("slurm/train.sbatch").write_text("edited")
    with pytest.raises(UserError, match=r"slurm/lab\.def: exists; give another --output, or --overwrite"):
        main(["slurm"])
    assert Path("slurm/train.sbatch").read_text() == "edited"
    main(["slurm", "--overwrite"])
    assert Path("slurm/train.sbatch").read_bytes() == (shipped / "train.sbatch").read_bytes()


def field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def long_field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content) & 127 | 128, len(content) >> 7]) + content


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
    main(["llama-tokenizer", *arguments])
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
        (SPECIAL + BYTES.replace(b"<0x00>", b"<0x01>"), r"lacks the 256 byte tokens"),
        (MODEL + piece("ab", -7, 1), r"has the token 'ab' 2 times; give a model that has each once"),
        (MODEL + piece("abc", float("nan"), 1), r"not a SentencePiece model \(a piece of score nan and 3 bytes\)"),
        (MODEL + b"\xff" * 1000, r"not a SentencePiece model \(a number of more than 64 bits\)"),
        (
            MODEL + long_field(1, long_field(1, b"a" * 2000)),
            r"not a SentencePiece model \(a piece of score 0\.0 and 2,000 bytes\)",
        ),
    ],
)
def test_a_file_that_is_no_llama_model_is_refused(tmp_path, content, message):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"tokenizer\.model: {message}"):
        convert(path)


def test_a_pipe_or_a_device_is_no_model_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="it is no file; give a SentencePiece model"):
            convert(path)


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"absent\.model: No such file or directory"):
        convert(tmp_path / "absent.model")
