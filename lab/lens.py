"""Read gradients through the vocabulary: what a target writes into each matrix of a decoder.

  python -m lab.lens run=runs/A prompt="The capital of France is" target=" Paris"
  python -m lab.lens run=runs/A prompts=facts.jsonl to=lens

What stands after prompt=, target= and subject= is taken as it is, whatever signs it holds. One forward and one
backward pass a batch; no weight changes.
"""

from lab.experiment.compose import run_composed
from lab.experiment.lens_settings import LensSettings


def act(settings: LensSettings) -> None:
    from lab.experiment.lens import lens

    lens(settings)


def main() -> None:
    run_composed("lens", LensSettings, act, __doc__ or "", literal=("prompt", "target", "subject"))


if __name__ == "__main__":
    main()
