"""Read pretrained weights of the Llama family with the lab's decoder: a model that is scored, studied, trained on.

  python -m lab.import_model source=TinyLlama/TinyLlama_v1.1
  python -m lab.import_model source=folder/with/config.json
  python -m lab.import_model source=folder/with/config.json model=nope    the same weights without rotations
  python -m lab.import_model source=SmolLM2-135M.gguf model=window_rope window=512

Then: lab extrapolate runs=runs/IMPORTED evaluation=sotu, or lab train start=run start.run=runs/IMPORTED model=nope.
"""

import shlex
import sys

from lab.experiment.compose import run_composed
from lab.experiment.settings import ImportSettings


def act(settings: ImportSettings) -> None:
    from lab.experiment.importing import import_model

    import_model(settings, shlex.join(["python", "-m", "lab.import_model", *sys.argv[1:]]))


def main() -> None:
    texts = ("source", "model", "tokenizer", "end_of_document")
    run_composed("import_model", ImportSettings, act, __doc__ or "", literal=texts)


if __name__ == "__main__":
    main()
