"""What is learned where there are prompts: against a loop over the tokens of answers, in float64."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from made_biographies import WORDS, answers_only

from lab.base.errors import UserError
from lab.base.interruption import Interruption
from lab.cluster.ranks import Ranks
from lab.data.stream.order import sampled_blocks
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.model.building import build_decoder
from lab.model.decoder import Decoder
from lab.training.fit import fit
from lab.training.module import Training

SMALL = (
    *("experiment=smoke", "model=rope", "data=biographies", "tokenizer=biographies_words", "logger=csv"),
    *("measure=none", "trainer.compute_dtype=float32", "trainer.accelerator=cpu", "data.corpus.content=questions"),
    *("data.corpus.people=60", "scale.tokens=2048", "scale.warmup_steps=1", "scale.validation_blocks=3"),
)


def job(folder: Path, *overrides: str) -> Setup:
    return Setup(settings_of("train", TrainSettings, [*SMALL, f"runs={folder}", *overrides]))


def losses_of_answers(decoder: Decoder, ids: list[int]) -> list[torch.Tensor]:
    """-log p of each token of an answer, given those before it, one pass each."""
    found = []
    for place, learned in enumerate(answers_only(ids)):
        if place and learned:
            logits = decoder.logits(decoder.hidden(torch.tensor([ids[:place]])))[0, -1]
            found.append(-torch.log_softmax(logits.double(), dim=0)[ids[place]])
    return found


def in_float64(setup: Setup, weights: dict[str, torch.Tensor] | None = None) -> Decoder:
    config = setup.config
    decoder = build_decoder(config.model, config.scale, kernel="reference", compute_dtype="float32", seed=config.seed)
    decoder.load_state_dict(weights or decoder.state_dict())
    decoder.compute_dtype = torch.float64
    return decoder


def mean(losses: list[torch.Tensor]) -> float:
    return float(np.mean([each.item() for each in losses]))


def blocks_of(setup: Setup, count: int) -> list[list[int]]:
    return [setup.stream.block(g).tokens.tolist() for g in range(count)]


def test_a_step_learns_answers_and_nothing_else_each_token_of_a_micro_batch_alike(tmp_path: Path) -> None:
    setup = job(tmp_path, "scale.micro_batch=8")
    blocks = blocks_of(setup, 8)
    slow = in_float64(setup)
    losses = [each for ids in blocks for each in losses_of_answers(slow, ids)]
    torch.stack(losses).mean().backward()
    module = Training(setup.fresh_decoder(), lambda _: None, lambda step: 1.0, 1.0, False, "none", None)  # type: ignore
    batch = next(iter(setup.data.train_dataloader()))
    assert batch["tokens"].tolist() == blocks
    loss = module.training_step(batch, 0)
    loss.backward()
    assert loss.item() == pytest.approx(mean(losses), rel=1e-6)
    expected = dict(slow.named_parameters())
    for name, parameter in module.decoder.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-6)


def test_the_losses_that_are_written_are_means_over_answers_of_each_micro_batch_and_of_all_validation(
    tmp_path: Path,
) -> None:
    setup = job(tmp_path, "trainer.validate_every=1", "scale.micro_batch=4")
    setup.run.create(setup.config, {"digest": setup.digest, "state": "training"})
    module = fit(setup.config, setup.run, setup.decoder, setup.data, Interruption())
    with open(setup.run.path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    slow = in_float64(setup)
    with torch.inference_mode():
        quarters = [
            mean([each for ids in blocks_of(setup, 16)[first : first + 4] for each in losses_of_answers(slow, ids)])
            for first in (0, 4, 8, 12)
        ]
        trained = in_float64(setup, module.decoder.state_dict())
        corpus = setup.stream.corpus
        blocks = sampled_blocks(corpus, "validation", WORDS, setup.config.scale.context, 3)
        validation = mean([each for block in blocks for each in losses_of_answers(trained, block.tokens.tolist())])
    assert len(rows) == 2
    assert float(rows[0]["loss_nats"]) == pytest.approx(np.mean(quarters), rel=1e-5)
    assert float(rows[1]["validation_loss_nats"]) == pytest.approx(validation, rel=1e-5)


def test_a_micro_batch_in_which_nothing_is_learned_has_no_loss_and_no_gradient(tmp_path: Path) -> None:
    setup = job(tmp_path)
    module = Training(setup.fresh_decoder(), lambda _: None, lambda step: 1.0, 1.0, False, "none", None)  # type: ignore
    batch = next(iter(setup.data.train_dataloader()))
    loss = module.training_step(batch | {"learned": torch.zeros_like(batch["learned"])}, 0)
    loss.backward()
    assert loss.item() == 0.0
    assert all(not parameter.grad.any() for parameter in module.decoder.parameters() if parameter.grad is not None)


def test_validation_blocks_without_an_answer_are_told(tmp_path: Path) -> None:
    setup = job(tmp_path)
    module = Training(setup.fresh_decoder(), lambda _: None, lambda step: 1.0, 1.0, False, "none", Ranks())  # type: ignore
    batch = next(iter(setup.data.val_dataloader()))
    module.validation_step(batch | {"learned": torch.zeros_like(batch["learned"])}, 0)
    with pytest.raises(UserError, match="no token of the validation blocks is learned: raise"):
        module.on_validation_epoch_end()
