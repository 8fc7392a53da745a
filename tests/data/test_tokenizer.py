import hashlib
import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from lab.base.errors import UserError
from lab.data.sources.file_corpus import Files
from lab.data.stream.tokenised import examined
from lab.data.tokenizer import END_OF_DOCUMENT, Tokenizer, shipped_tokenizers, train_tokenizer

NAMES = {"sotu_1k": ("<|endoftext|>", 1024), "sotu_4k": ("<|endoftext|>", 4096), "llama_32k": ("</s>", 32000)}
TOKENIZERS = {name: Tokenizer(f"{name}/tokenizer.json", end, vocabulary) for name, (end, vocabulary) in NAMES.items()}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@pytest.mark.parametrize("name", ["sotu_1k", "sotu_4k"])
@given(text=TEXT)
def test_any_text_comes_back_from_its_ids(name, text):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    assert ids.dtype == np.uint32
    assert ids.max() < tokenizer.vocabulary
    assert tokenizer.decode(ids) == text


@given(text=TEXT)
def test_any_text_comes_back_from_the_ids_of_llama(text):
    # U+2581 is how this kind writes a space, so a text cannot tell the two apart.
    assert TOKENIZERS["llama_32k"].decode(TOKENIZERS["llama_32k"].encode(text)) == text.replace("▁", " ")


@pytest.mark.parametrize("name", NAMES)
def test_a_text_that_spells_the_end_of_document_does_not_end_it(name):
    tokenizer = TOKENIZERS[name]
    text = f"before {NAMES[name][0]} after"
    ids = tokenizer.encode(text)
    assert tokenizer.end_of_document not in ids
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_the_ids_of_each_text(name, sotu):
    texts = [next(sotu.read("validation", "", index)).text[:2000] for index in range(3)]
    for ids, text in zip(TOKENIZERS[name].encode_batch(texts), texts, strict=True):
        np.testing.assert_array_equal(ids, TOKENIZERS[name].encode(text))


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_tokenizer_is_the_file_that_the_readme_describes(name):
    path = shipped_tokenizers() / name / "tokenizer.json"
    assert TOKENIZERS[name].digest == hashlib.sha256(path.read_bytes()).hexdigest()
    readme = (shipped_tokenizers().parent / "README.md").read_text()
    assert TOKENIZERS[name].digest in readme


def test_training_gives_the_bytes_then_merges_and_the_end_of_document_is_0():
    tokenizer = train_tokenizer(["the cat, the hat, the mat"] * 10, 262)
    vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]
    assert vocabulary["<|endoftext|>"] == 0
    assert sorted(vocabulary.values()) == list(range(262))
    assert all(len(token) == 1 for token, number in vocabulary.items() if 1 <= number <= 256)
    assert "the" in vocabulary


def test_a_file_here_goes_before_a_shipped_one(tmp_path, monkeypatch):
    (tmp_path / "sotu_1k").mkdir()
    train_tokenizer(["aaab" * 9], 258, "<end>").save(str(tmp_path / "sotu_1k" / "tokenizer.json"))
    monkeypatch.chdir(tmp_path)
    assert Tokenizer("sotu_1k/tokenizer.json", "<end>").vocabulary == 258


def test_a_file_that_asks_for_truncation_or_padding_does_not_get_it(tmp_path):
    tokenizer = train_tokenizer(["aaab" * 9], 258)
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=5)
    tokenizer.save(str(tmp_path / "short.json"))
    loaded = Tokenizer(str(tmp_path / "short.json"))
    assert loaded.decode(loaded.encode("a b c d e f g")) == "a b c d e f g"
    assert len(loaded.encode("c")) == 1


@pytest.mark.parametrize("name", ["absent.json", ""])
def test_a_missing_tokenizer_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"{name}: no such tokenizer file"):
        Tokenizer(name)


def test_a_directory_is_refused():
    with pytest.raises(UserError, match=r"sotu_1k: a directory; name the tokenizer\.json in it"):
        Tokenizer("sotu_1k")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"{}", "not a tokenizer.json"),
        (b"\xff\xfe", "not a tokenizer.json"),
        (b"PK", "not a tokenizer.json"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Tokenizer(str(path))


def test_a_tokenizer_without_the_end_of_document_token_is_refused():
    with pytest.raises(UserError, match=r"tokenizer\.json: lacks the token '<eos>'"):
        Tokenizer("sotu_1k/tokenizer.json", end_of_document="<eos>")


def test_another_vocabulary_than_the_files_is_refused():
    with pytest.raises(UserError, match=r"vocabulary is 1000 but .*sotu_1k.* has 1024 tokens"):
        Tokenizer("sotu_1k/tokenizer.json", vocabulary=1000)


def test_a_vocabulary_with_no_room_for_the_bytes_is_refused():
    with pytest.raises(UserError, match="vocabulary is 257; give at least 258"):
        train_tokenizer(["text"], 257)


def test_texts_too_few_for_the_vocabulary_are_refused():
    with pytest.raises(UserError, match="the texts give only 260 of 1024 tokens"):
        train_tokenizer(["text"], 1024)


def test_the_end_of_document_is_found_if_the_file_leaves_no_choice(tmp_path):
    assert Tokenizer("sotu_1k/tokenizer.json", None).end_of_document == 0
    assert Tokenizer("llama_32k/tokenizer.json", None).end_of_document == 2
    content = json.loads(Tokenizer("sotu_1k/tokenizer.json").path.read_text())
    both = content["added_tokens"] + [content["added_tokens"][0] | {"id": 1024, "content": "</s>"}]
    for tokens, told in ((both, "has both of"), ([], "has none of")):
        changed = content | {"added_tokens": tokens}
        if not tokens:
            vocabulary = {
                ("<end>" if key == "<|endoftext|>" else key): i for key, i in content["model"]["vocab"].items()
            }
            changed["model"] = content["model"] | {"vocab": vocabulary}
        (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=rf"tokenizer\.json: {told} .*; name its token as end_of_document"):
            Tokenizer(str(tmp_path / "tokenizer.json"), None)


def stored(library, folder, change=lambda content: None):
    """The file of a library's tokenizer, changed."""
    content = json.loads(library.to_str())
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return str(folder / "tokenizer.json")


SOME_TEXT = ["the people of the new world and the government of the people"] * 20


def trained_unigram():
    library = tokenizers.Tokenizer(models.Unigram())
    library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    library.train_from_iterator(SOME_TEXT, trainer)
    return library


def trained_words(unknown="<unk>"):
    vocabulary = {"</s>": 0, **({unknown: 1} if unknown else {})}
    for word in " ".join(SOME_TEXT).split():
        vocabulary.setdefault(word, len(vocabulary))
    library = tokenizers.Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=unknown or "<unk>"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return library


def trained_bytes():
    return train_tokenizer(SOME_TEXT, 270)


def no_longer_special(content):
    for token in content["added_tokens"]:
        token["special"] = False


@pytest.mark.parametrize(
    ("library", "change"),
    [
        (trained_unigram, lambda content: None),
        (trained_words, lambda content: None),
        (trained_bytes, lambda content: None),
        (trained_bytes, no_longer_special),
        (trained_unigram, no_longer_special),
    ],
)
def test_a_text_that_spells_the_end_of_document_does_not_end_there(tmp_path, library, change):
    made = library()
    end = "</s>" if made.token_to_id("</s>") is not None else END_OF_DOCUMENT
    tokenizer = Tokenizer(stored(made, tmp_path, change), end)
    for text in (f"the people {end} of the world", f"the{end}people", end, f"{end} {end}"):
        assert tokenizer.end_of_document not in tokenizer.encode(text)
    plain, spelled = tokenizer.encode("the people of the world"), tokenizer.encode(f"the people {end} of the world")
    np.testing.assert_array_equal(spelled[:2], plain[:2])
    np.testing.assert_array_equal(spelled[-3:], plain[-3:])


def test_a_tokenizer_that_leaves_merges_out_by_chance_is_refused(tmp_path):
    path = stored(trained_bytes(), tmp_path, lambda content: content["model"].update(dropout=0.1))
    with pytest.raises(UserError, match=r"tokenizer\.json: its model leaves merges out by chance \(dropout 0\.1"):
        Tokenizer(path)


def test_a_text_that_cannot_be_spelled_is_told_in_one_line(tmp_path):
    tokenizer = Tokenizer(stored(trained_words(unknown=""), tmp_path), "</s>")
    assert len(tokenizer.encode("the people")) == 2
    with pytest.raises(
        UserError, match=r"tokenizer\.json: it cannot spell a text \(.*\); take a tokenizer with an unk"
    ):
        tokenizer.encode("the senate")


def test_an_examination_counts_unknown_tokens_and_lost_letters(tmp_path):
    tokenizer = Tokenizer(stored(trained_words(), tmp_path), "</s>")
    assert tokenizer.examine(["the people of the world"]) == {"unknown": 0.0, "lost": 0.0}
    found = tokenizer.examine(["the people of the senate"])  # 6 of 20 letters
    assert found == {"unknown": pytest.approx(1 / 5), "lost": pytest.approx(6 / 20)}
    lower = trained_words()
    lower.normalizer = normalizers.Lowercase()
    assert Tokenizer(stored(lower, tmp_path), "</s>").examine(["The PEOPLE"]) == {"unknown": 0.0, "lost": 0.0}


def test_a_corpus_that_a_tokenizer_cannot_spell_is_refused_and_a_little_loss_is_told(tmp_path, caplog):
    tokenizer = Tokenizer(stored(trained_words(), tmp_path), "</s>")
    for name, text in (("all.txt", "漢字 " * 50), ("some.txt", "the people of the world " * 40 + "senate")):
        (tmp_path / name).write_text(text)
    for name in ("validation", "test"):
        (tmp_path / f"{name}.txt").write_text(f"the people of {name}")
    files = {name: str(tmp_path / f"{name}.txt") for name in ("validation", "test")}
    with pytest.raises(UserError, match=r"of a sample of the training text 100% of the tokens are unknown and 100%"):
        examined(Files(train=str(tmp_path / "all.txt"), **files), tokenizer)
    assert examined(Files(train=str(tmp_path / "some.txt"), **files), tokenizer)["unknown"] == pytest.approx(1 / 201)
    assert not caplog.records
    (tmp_path / "some.txt").write_text("the people of the world " * 10 + "senate")
    examined(Files(train=str(tmp_path / "some.txt"), **files), tokenizer)
    assert "2% of the tokens are unknown" in caplog.text


def test_a_tokenizer_that_gives_a_text_other_ids_from_time_to_time_is_found_out(tmp_path, monkeypatch):
    tokenizer = Tokenizer(stored(trained_words(), tmp_path), "</s>")
    turns = iter(range(100))
    monkeypatch.setattr(tokenizer, "encode", lambda text: np.array([next(turns) % 2], dtype=np.uint32))
    with pytest.raises(UserError, match="the same text has other tokens each time; take another tokenizer"):
        tokenizer.examine(["the people"])


def test_letters_that_are_dropped_without_an_unknown_token_are_lost(tmp_path):
    model = models.BPE(vocab={"a": 0, "b": 1, " ": 2, "</s>": 3}, merges=[])
    tokenizer = Tokenizer(stored(tokenizers.Tokenizer(model), tmp_path), "</s>")
    assert tokenizer.examine(["ab ab"]) == {"unknown": 0.0, "lost": 0.0}
    assert tokenizer.examine(["abcd"]) == {"unknown": 0.0, "lost": pytest.approx(0.5)}
    for name, text in (("train", "xyz " * 50), ("validation", "ab"), ("test", "ba")):
        (tmp_path / f"{name}.txt").write_text(text)
    files = {name: str(tmp_path / f"{name}.txt") for name in ("train", "validation", "test")}
    with pytest.raises(UserError, match="100% of the letters are lost; take a tokenizer that can spell these texts"):
        examined(Files(**files), tokenizer)
