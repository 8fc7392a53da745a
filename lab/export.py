"""Hand a model on: a folder that transformers and all that reads its folders load, for every variant.

  python -m lab.export run=runs/A to=exported/A
  python -m lab.export run=runs/A to=A.gguf format=gguf      RoPE with full attention only
  python -m lab.export run=runs/B to=exported/B format=peft  what adapter=lora has trained, for PEFT

AutoModelForCausalLM.from_pretrained("exported/A") then loads it; with ALiBi it needs trust_remote_code=True, as
transformers has no class for it and the folder brings one, a page long.
"""

from lab.experiment.compose import run_composed
from lab.experiment.settings import ExportSettings


def act(settings: ExportSettings) -> None:
    from lab.experiment.handing_on import hand_on

    hand_on(settings)


def main() -> None:
    run_composed("export", ExportSettings, act, __doc__ or "", literal=("run", "to"))


if __name__ == "__main__":
    main()
