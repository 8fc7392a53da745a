"""Words that are hidden: who is drawn, what is shown, what is learned; against plain counts and one place at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_biographies import WORDS, answers_only

from lab.base.errors import UserError
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.model.building import build_decoder
from lab.training.module import Training
from lab.training.objectives import Masked, gap_of, starts_a_word

END, GAP = WORDS.end_of_document, gap_of(WORDS)
SMALL = (
    *("experiment=smoke", "model=bidirectional_rope", "objective=masked", "data=biographies", "logger=csv"),
    *("tokenizer=biographies_words", "measure=none", "trainer.compute_dtype=float32", "trainer.accelerator=cpu"),
    *("data.corpus.people=60", "scale.tokens=2048", "scale.warmup_steps=1", "scale.validation_blocks=3"),
)


def job(folder: Path, *overrides: str) -> Setup:
    return Setup(settings_of("train", TrainSettings, [*SMALL, f"runs={folder}", *overrides]))


def objective(share: float = 0.15, random: float = 0.1, kept: float = 0.1, seed: int = 0) -> Masked:
    return Masked(share, random, kept, WORDS, seed)


def made_batch(blocks: int, length: int = 513, first: int = 0) -> dict[str, torch.Tensor]:
    draws = np.random.default_rng(first)
    tokens = draws.integers(2, WORDS.vocabulary, size=(blocks, length))
    tokens[:, ::50] = END
    return {"tokens": torch.from_numpy(tokens), "blocks": torch.arange(first, first + blocks)}


def test_of_the_words_the_share_is_to_be_told_of_these_eight_in_ten_are_gaps_and_ends_are_never_hidden() -> None:
    batch = made_batch(200)
    asked = objective()(batch)
    assert asked.learned is not None
    tokens = batch["tokens"][:, :-1]
    assert torch.equal(asked.targets, tokens)
    assert not asked.learned[tokens == END].any()
    assert torch.equal(asked.inputs[~asked.learned], tokens[~asked.learned])
    words = int((tokens != END).sum())
    hidden = asked.inputs[asked.learned]
    # Five standard deviations of a binomial.
    for found, of, share in (
        (len(hidden), words, 0.15),
        (int((hidden == GAP).sum()), len(hidden), 0.8),
        (int((hidden == tokens[asked.learned]).sum()), len(hidden), 0.1),
    ):
        assert abs(found - of * share) < 5 * (of * share * (1 - share)) ** 0.5


def test_what_is_drawn_depends_on_the_seed_and_the_blocks_number_and_on_nothing_beside() -> None:
    batch = made_batch(6)
    together = objective()(batch)
    for number in (5, 0, 3):
        alone = objective()({name: each[number : number + 1] for name, each in batch.items()})
        assert alone.learned is not None
        assert together.learned is not None
        assert torch.equal(alone.inputs[0], together.inputs[number])
        assert torch.equal(alone.learned[0], together.learned[number])
    others = (objective(seed=1)(batch), objective()(batch | {"blocks": batch["blocks"] + 1}))
    assert all(not torch.equal(each.inputs, together.inputs) for each in others)


def test_all_tokens_of_a_word_are_hidden_together() -> None:
    made = objective(share=0.3, random=0.0, kept=0.0)
    made.starts = np.arange(WORDS.vocabulary) % 3 == 0  # as where a word has several tokens
    batch = made_batch(20)
    batch["tokens"][batch["tokens"] == END] = 3
    asked = made(batch)
    assert asked.learned is not None
    for tokens, hidden in zip(asked.targets.tolist(), asked.learned.tolist(), strict=True):
        for place in range(1, len(tokens)):
            if tokens[place] % 3:
                assert hidden[place] == hidden[place - 1]
    assert 0.2 < float(asked.learned.double().mean()) < 0.4


def test_a_word_of_the_shipped_tokenizer_is_one_token_and_a_mark_is_one_too() -> None:
    ids = WORDS.encode("was born in the city, and moved").tolist()
    assert all(starts_a_word(WORDS, each) for each in ids)


def test_of_questions_all_but_the_prompt_is_a_gap_and_learned(tmp_path: Path) -> None:
    setup = job(tmp_path, "data.corpus.content=questions")
    batch = next(iter(setup.data.train_dataloader()))
    asked = objective()(batch)
    assert asked.learned is not None
    for row, ids in enumerate(batch["tokens"].tolist()):
        learned = answers_only(ids)[:-1]
        assert asked.learned[row].tolist() == learned
        shown = [GAP if told else token for told, token in zip(learned, ids[:-1], strict=True)]
        assert asked.inputs[row].tolist() == shown


def test_a_step_learns_the_hidden_words_from_both_sides_and_nothing_else(tmp_path: Path) -> None:
    setup = job(tmp_path, "scale.micro_batch=4")
    config = setup.config
    slow = build_decoder(config.model, config.scale, kernel="reference", compute_dtype="float32", seed=config.seed)
    slow.compute_dtype = torch.float64
    made = objective(seed=config.seed)
    batch = next(iter(setup.data.train_dataloader()))
    asked = made(batch)
    assert asked.learned is not None
    losses = []
    for row, place in asked.learned.nonzero().tolist():
        logits = slow.logits(slow.hidden(asked.inputs[row : row + 1]))[0, place].double()
        losses.append(-torch.log_softmax(logits, dim=0)[asked.targets[row, place]])
    torch.stack(losses).mean().backward()
    module = Training(
        setup.fresh_decoder(),
        lambda _: None,
        lambda step: 1.0,
        1.0,
        False,
        "none",
        None,
        made,  # type: ignore
    )
    loss = module.training_step(batch, 0)
    loss.backward()
    assert loss.item() == pytest.approx(float(np.mean([each.item() for each in losses])), rel=1e-6)
    expected = dict(slow.named_parameters())
    for name, parameter in module.decoder.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-6)


def test_what_comes_after_is_seen(tmp_path: Path) -> None:
    decoder = job(tmp_path).fresh_decoder()
    tokens = torch.arange(2, 22)[None]
    other = tokens.clone()
    other[0, -1] += 1
    before, after = decoder.hidden(tokens), decoder.hidden(other)
    assert (before != after).any(dim=-1).all()
    assert not decoder.causal


def test_attention_to_all_is_not_trained_to_foretell_what_it_sees(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model.attention is bidirectional, .*: it is trained with objective=masked$"):
        settings_of("train", TrainSettings, [each for each in SMALL if each != "objective=masked"])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("model=rope",), "model.attention is full, .*: leave objective out"),
        (("objective=null",), "objective=null chooses nothing: leave objective out, or name one of conf/objective"),
        (("model/position=nope",), "position is nope, which knows order by the causal mask"),
        (("model/position=alibi",), "position is alibi, which biases by the distance to keys before"),
        (("tokenizer=sotu_1k",), "has no unknown token, which objective=masked puts"),
        (("measure=excess",), "measure=excess is of decoders that foretell the next token"),
        (("kernel=banded",), "kernel banded shows a query no key behind it"),
        (("objective.random=0.6", "objective.kept=0.5"), "objective.random is 0.6 and objective.kept 0.5: together"),
    ],
)
def test_what_does_not_go_with_hidden_words_is_one_line(tmp_path: Path, overrides: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told) as refused:
        job(tmp_path, *overrides)
    assert len(refused.value.args) == 1
    assert "\n" not in str(refused.value)
