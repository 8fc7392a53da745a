"""Low-rank updates as a folder that PEFT loads onto the exported parent: `PeftModel.from_pretrained(parent, folder)`.

    adapter_config.json
    adapter_model.safetensors   float32, names as of Llama, under PEFT's base_model.model
    README.md                   of which parent it is

Where the embedding is tied to the head and updated, PEFT is told to update both (`ensure_weight_tying`).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lab.base.errors import UserError
from lab.base.files import write_whole
from lab.base.settings import flatten
from lab.exchange.exporting import query_factor
from lab.exchange.names import abroad
from lab.exchange.weights import write_tensors
from lab.runs.model import Model
from lab.runs.run import Run

TIED = (
    "Head and embedding are one matrix, whose update `merge_and_unload` would add twice, once for each: for a merged "
    "model export the run itself."
)
ROOT = "base_model.model."  # what PEFT puts a model into


def export_peft(model: Model, folder: Path, step: int | None) -> None:
    """Write the folder, which must be there and empty.

    Args:
        step: the optimiser step whose factors are written; None: the last.

    Raises:
        UserError: no low-rank updates were trained, or what the run computes is more than its parent with them.
    """
    if not isinstance(model, Run) or model.config.adapter is None or model.config.adapter.name != "lora":
        raise UserError(
            f"{model.path}: format=peft writes what was trained with adapter=lora, and this is {model.label}: leave "
            "format out"
        )
    _refuse_another_model(model)
    tied = model.config.model.tied
    tensors = _tensors(model.checkpoint(step).weights(), query_factor(model), tied)
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    write_tensors(folder / "adapter_model.safetensors", shapes, tensors.__getitem__, {"format": "pt"})
    parent = model.field("parent")
    configuration = _configuration(model.config.adapter, tensors, str(parent["name"]), tied)
    write_whole(folder / "adapter_config.json", (json.dumps(configuration, indent=2) + "\n").encode())
    write_whole(folder / "README.md", _card(model, parent, configuration["ensure_weight_tying"]).encode())


def _tensors(weights: Mapping[str, Tensor], factor: float, tied: bool) -> dict[str, Tensor]:
    """The factors among weights, by PEFT's names; ``factor`` is that by which the exported parent's queries are
    multiplied, for its extensions."""
    embedding = abroad("embedding").removesuffix(".weight")
    head = abroad("head.weight").removesuffix(".weight")
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        matrix, _, which = name.rpartition("lora_")
        if matrix == "embedding_":
            found[f"{ROOT}{embedding}.lora_embedding_{which}"] = value
            if tied:  # its matrix is the embedding's, read the other way round
                found[f"{ROOT}{head}.lora_{'A' if which == 'B' else 'B'}.weight"] = value.T
        elif matrix:
            place = abroad(f"{matrix}weight").removesuffix(".weight")
            scaled = value * factor if place.endswith("q_proj") and which == "B" else value
            found[f"{ROOT}{place}.lora_{which}.weight"] = scaled
    return found


def _configuration(settings: Any, tensors: Iterable[str], parent: str, tied: bool) -> dict[str, Any]:
    """adapter_config.json (PEFT's LoraConfig): each module's updates are multiplied by lora_alpha / its rank."""
    targets = {name.partition(".lora_")[0].rpartition(".")[2] for name in tensors}
    of_embedding = targets & {"embed_tokens", "lm_head"}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": parent,
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "target_modules": sorted(targets),
        "rank_pattern": dict.fromkeys(sorted(of_embedding), settings.embedding_rank),
        "alpha_pattern": {},
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "ensure_weight_tying": tied and bool(of_embedding),
    }


def _refuse_another_model(model: Model) -> None:
    theirs, ours = (flatten(each["model"]) for each in (model.identity["start"]["parent"], model.identity))
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise UserError(
                f"{model.path}: its model.{name} is {ours.get(name, 'absent')} and its parent's "
                f"{theirs.get(name, 'absent')}, so the parent with its updates is another model: leave format out"
            )


def _card(model: Model, parent: dict[str, Any], tied: bool) -> str:
    lines = [
        "---",
        "library_name: peft",
        "license: other",
        "---",
        "",
        f"# {model.path.resolve().name}",
        "",
        f"Low-rank updates of `{parent['name']}` at step {parent['step']:,} (digest `{parent['digest'][:12]}`), "
        f"trained by the context-window lab (digest `{model.digest[:12]}`).",
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        "# PARENT: the folder that python -m lab.export made of the parent at that step",
        'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("PARENT"), "FOLDER")',
        "```",
        *(("", TIED) if tied else ()),
    ]
    return "\n".join(lines) + "\n"
