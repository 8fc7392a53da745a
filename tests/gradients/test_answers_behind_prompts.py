"""What a decoder answers behind prompts that are read together is what it answers to each alone."""

import pytest
import torch
from gradients.tiny import EXAMPLES, tiny
from torch.nn import functional

from lab.gradients.answers import answers
from lab.gradients.capture import Example
from lab.model.position import ALiBi, Learned, NoPE, RoPE


@pytest.mark.parametrize("kind", [NoPE, RoPE, ALiBi, Learned])
@torch.inference_mode()
def test_losses_and_likeliest_tokens_are_those_of_each_prompt_alone(kind):
    decoder = tiny(kind)
    for example, found in zip(EXAMPLES, answers(decoder, EXAMPLES, batch_tokens=64), strict=True):
        logits = decoder(torch.tensor([example.read]))[0, len(example.prompt) - 1 :]
        wanted = functional.cross_entropy(logits, torch.tensor(example.target))
        assert found.loss == pytest.approx(float(wanted), rel=1e-5)
        assert found.first == int(logits[0].argmax())
        assert found.said == (logits.argmax(-1).tolist() == list(example.target))


@torch.inference_mode()
def test_a_target_is_said_if_each_of_its_tokens_is_the_likeliest():
    decoder, tokens = tiny(), [3, 17, 5]
    for _ in range(3):
        tokens.append(int(decoder(torch.tensor([tokens]))[0, -1].argmax()))
    said = Example(tuple(tokens[:3]), tuple(tokens[3:]))
    other = Example(said.prompt, (*said.target[:2], (said.target[2] + 1) % 31))
    assert [each.said for each in answers(decoder, [said, other], batch_tokens=64)] == [True, False]
