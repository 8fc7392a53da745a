"""Let a trained decoder write on: text from a run, as it comes.

  python -m lab.generate run=runs/A prompt="The state of the union is"
  echo "The state of the union is" | python -m lab.generate run=runs/A greedy=true
  python -m lab.generate run=runs/A prompts=lines.txt to=continued.csv tokens=50

What stands after prompt= is taken as it is, whatever signs it holds. It works beyond the context the decoder was
trained with. Ctrl-C stops it.
"""

from lab.experiment.compose import run_composed
from lab.experiment.settings import GenerateSettings


def act(settings: GenerateSettings) -> None:
    from lab.experiment.generation import generate

    generate(settings)


def main() -> None:
    run_composed("generate", GenerateSettings, act, __doc__ or "", literal=("prompt",))


if __name__ == "__main__":
    main()
