"""What a decoder writes behind the prompts of a corpus's test split, beside what it was to write."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lab.base.errors import UserError
from lab.base.settings import Count, Positive, Seed, Share, key
from lab.observe.at_context import AtContextMeasure
from lab.observe.measure import Item, Source

if TYPE_CHECKING:
    from lab.data.sources.documents import Corpus
    from lab.model.decoder import Decoder


class WritingMeasure(AtContextMeasure):
    """Texts that are written behind prompts, one a document of the corpus that was trained on.

    Position Interpolation draws them with a temperature of 0.5 and a nucleus of 0.95 (arXiv 2306.15595, section 3.5).
    """

    reads_documents = False
    length_shown = "behind whole prompts"

    documents: Count | None = key("of the test split whose prompts are asked, at most")
    tokens: Count = key("written at most; the end of a document ends a text sooner")
    temperature: Positive | None = key("of what is drawn; null: the likeliest token, always")
    top_p: Share = key("of what is drawn: the nucleus")
    seed: Seed = key("of what is drawn")

    def items(self, source: Source) -> Iterator[Item]:
        corpus = self.corpus(source)
        found = 0
        for subset in corpus.subsets("test"):
            for entry in corpus.documents("test", subset):
                if entry.text is None or not entry.prompt:
                    continue
                if found == self.documents:
                    return
                found += 1
                end = [source.tokenizer.end_of_document]
                ids = np.concatenate([end, source.tokenizer.encode(entry.text[: entry.prompt])]).astype(np.uint32)
                told = {"prompt": entry.text[: entry.prompt], "wanted": entry.text[entry.prompt :]}
                yield Item(entry.name, ids, told | {"tokenizer": source.tokenizer} | self.beside(corpus, entry.name))
        if not found:
            raise UserError(
                f"measure={self.label()} asks for what stands behind prompts, and no document of the test split that "
                "this decoder was trained with has one: take data=reports, or data=files with prompt_field"
            )

    def corpus(self, source: Source) -> "Corpus":
        """The corpus whose prompts are asked. Raises UserError if the measure has nothing to ask of it."""
        if source.trained_on is None:
            raise UserError(f"measure={self.label()} asks for what stands behind prompts, and this decoder had none")
        return source.trained_on()

    def beside(self, corpus: "Corpus", name: str) -> dict[str, object]:
        """What the measure needs to know of a document."""
        return {}

    def written(self, decoder: "Decoder", item: Item) -> str:
        """What the decoder writes behind a prompt."""
        from lab.model.decoding import sample
        from lab.observe.losses import on_device

        tokenizer = item.details["tokenizer"]
        prompt, drawn = on_device(item.ids, decoder)[None], []
        for token in sample(
            decoder, prompt, self.tokens, temperature=self.temperature, top_p=self.top_p, seed=self.seed
        ):
            if token == tokenizer.end_of_document:
                break
            drawn.append(token)
        return str(tokenizer.decode(drawn)).strip()


def copied(prompt: str) -> str:
    """The first and the last line of what is to be summarised: what a summary has to beat. The prompt's own last line
    is its cue."""
    lines = [line.strip() for line in prompt.split("\n")[:-1] if line.strip()]
    return " ".join(lines if len(lines) < 2 else (lines[0], lines[-1]))
