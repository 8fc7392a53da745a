"""A model of the lab as lm-evaluation-harness asks it (github.com/EleutherAI/lm-evaluation-harness, api/model.py).

The harness's own conventions are kept, so that its numbers are those of its transformers backend: spaces at the end of
a context go to the continuation, an empty context is the end of a document, rolling losses are of disjoint windows, and
texts end before a stop sequence. Nothing is cut without a word: what is longer than ``longest`` is refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from lab.base.errors import UserError
from lab.base.progress import progress
from lab.data.tokenizer import Tokenizer
from lab.exchange.answers import Answers
from lab.model.decoder import Decoder
from lab.model.decoding import sample

MAX_NEW_TOKENS = 256  # where a task does not say it, as in the harness


class HarnessModel(TemplateLM):
    """A decoder and its tokenizer.

    Args:
        longest: tokens that a request may have in all; rolling losses are of windows of so many.
        batch_tokens: read together, at most.
        answers: what it has answered before.
        check: called before each batch; may raise to stop.
    """

    def __init__(
        self,
        decoder: Decoder,
        vocabulary: Tokenizer,
        longest: int,
        batch_tokens: int,
        answers: Answers,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.decoder, self.vocabulary, self.answers, self.check = decoder, vocabulary, answers, check
        self.longest, self.batch_tokens = longest, batch_tokens
        self._questions: list[str] = []  # whose the requests are, for messages
        self._place = decoder.embedding.device

    @property
    def eot_token_id(self) -> int:
        return self.vocabulary.end_of_document

    @property
    def max_length(self) -> int:
        return self.longest

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        found: list[int] = self.vocabulary.encode(string).tolist()
        return found

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each context and continuation: see :meth:`_loglikelihood_tokens`, which shows how far it is."""
        self._questions = [question(each) for each in requests]
        return super().loglikelihood(list(requests), disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Of each request the log-likelihood of its continuation, and whether that is the greedy one."""
        asked = {}
        for of, (_, context, continuation) in zip(self._questions, requests, strict=True):
            if not continuation:
                raise UserError(f"{of} has a continuation without tokens, which has no likelihood; mend the task")
            self._fits(len(context) + len(continuation) - 1, of)
            asked[Answers.key("loglikelihood", context, continuation)] = (context, continuation)
        left = {key: each for key, each in asked.items() if self.answers.get(key) is None}
        bar = progress("log-likelihoods", "requests", total=len(left))
        for keys in self._batches({key: len(context) + len(answer) - 1 for key, (context, answer) in left.items()}):
            self.check()
            self.answers.add(self._scored({key: left[key] for key in keys}))
            bar.update(len(keys))
        bar.close()
        found = (self.answers.get(Answers.key("loglikelihood", context, answer)) for _, context, answer in requests)
        return [(loglikelihood, bool(greedy)) for loglikelihood, greedy in found]

    @torch.inference_mode()
    def _scored(self, requests: Mapping[str, tuple[list[int], list[int]]]) -> dict[str, tuple[float, bool]]:
        """Requests in one pass, the longest first."""
        rows = [[*context, *answer][:-1] for context, answer in requests.values()]
        tokens = torch.zeros(len(rows), len(rows[0]), dtype=torch.long)
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = torch.tensor(row)
        # Causal: what is padded on the right is seen by nothing before it.
        hidden = self.decoder.hidden(tokens.to(self._place))
        found = {}
        for number, (key, (_, answer)) in enumerate(requests.items()):
            wanted = torch.tensor(answer, device=self._place)
            logits = self.decoder.logits(hidden[number, len(rows[number]) - len(answer) : len(rows[number])]).float()
            scores = logits.log_softmax(-1).gather(-1, wanted[:, None])
            found[key] = (float(scores.double().sum()), bool((logits.argmax(-1) == wanted).all()))
        return found

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Of each text the sum over disjoint windows, each but the first with one token before it."""
        windows: list[tuple[Any, list[int], list[int]]] = []
        counts = []
        self._questions = []
        for request in requests:
            (text,) = request.args
            cut = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.longest, 1)
            own = [(None, *make_disjoint_window(each)) for each in cut]
            windows += own
            counts.append(len(own))
            self._questions += [question(request)] * len(own)
        scores = iter(self._loglikelihood_tokens(windows))
        return [sum(next(scores)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Of each context what is written on greedily until a stop sequence, the end of a document, or enough."""
        end = self.vocabulary.decode([self.eot_token_id])
        asked = []
        for request in requests:
            context, given = request.args
            wanted = normalize_gen_kwargs(dict(given), MAX_NEW_TOKENS)
            if wanted.get("do_sample"):
                raise UserError(
                    f"{question(request)} asks for texts drawn by chance (do_sample); set that to false in the task"
                )
            tokens = self.tok_encode(context) or [self.prefix_token_id]
            self._fits(len(tokens) + wanted["max_gen_toks"], question(request))
            asked.append((tokens, wanted["max_gen_toks"], handle_stop_sequences(wanted.get("until"), eos=end)))
        for tokens, count, stops in progress("texts", "requests", asked):
            key = Answers.key("generate_until", tokens, count, stops)
            if self.answers.get(key) is None:
                self.check()
                self.answers.add({key: postprocess_generated_text(self._written(tokens, count, stops), stops, None)})
        return [self.answers.get(Answers.key("generate_until", *each)) for each in asked]

    def _written(self, tokens: list[int], count: int, stops: Sequence[str]) -> str:
        written: list[int] = []
        text = ""
        given = torch.tensor([tokens], device=self._place)
        for token in sample(self.decoder, given, count, temperature=None, top_p=1.0, seed=0):
            if token == self.eot_token_id:
                break
            written.append(token)
            text = self.vocabulary.decode(written)
            if any(stop in text for stop in stops if stop):
                break
        return text

    def _fits(self, tokens: int, of: str) -> None:
        if tokens > self.longest:
            raise UserError(
                f"{of} has {tokens:,} tokens, and longest is {self.longest:,}: raise longest, or take tasks of "
                "shorter texts; nothing is cut"
            )

    def _batches(self, sizes: Mapping[str, int]) -> Iterator[list[str]]:
        """Keys of requests of like length, the longest first, of at most ``batch_tokens`` together.

        What is padded makes a text longer: where positions turn by the length of a whole text, only requests that turn
        alike are read together.
        """
        position = self.decoder.position
        turned = {key: position.version(size) if position.depends_on_length else 0 for key, size in sizes.items()}
        batch: list[str] = []
        for key in sorted(sizes, key=lambda each: -sizes[each]):
            full = bool(batch) and (len(batch) + 1) * sizes[batch[0]] > self.batch_tokens
            if batch and (full or turned[key] != turned[batch[0]]):
                yield batch
                batch = []
            batch.append(key)
        if batch:
            yield batch


def question(request: Instance) -> str:
    """Whose a request is."""
    return f"question {request.doc_id} of {request.task_name}"
