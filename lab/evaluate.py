"""Ask models the tasks of lm-evaluation-harness: their numbers beside the lab's own.

  python -m lab.evaluate run=runs/A tasks=[arc_easy,piqa]
  python -m lab.evaluate run=runs/A tasks=my_task folder=my_tasks      a folder of tasks in the harness's YAML
  python -m lab.evaluate run=runs/A tasks=lambada_openai limit=100 longest=2048
  python -m lab.evaluate run='runs/A*' tasks=cloze folder=my_tasks output=answers       what claims are made of

Needs the harness: pip install '.[harness]'. Nothing is cut: a request longer than longest (default: the model's C)
is refused.
"""

from lab.experiment.compose import run_composed
from lab.experiment.settings import EvaluateSettings


def act(settings: EvaluateSettings) -> None:
    from lab.experiment.evaluating import evaluate

    evaluate(settings)


def main() -> None:
    run_composed("evaluate", EvaluateSettings, act, __doc__ or "", literal=("folder",))


if __name__ == "__main__":
    main()
