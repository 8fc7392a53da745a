"""A real model: what is imported of a GGUF and exported is the same decoder in transformers. `make real-model`."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab.data.sources.documents import Sotu
from lab.model.decoding import greedy
from lab.runs.imported import Imported

SOURCE = os.environ.get("LAB_REAL_MODEL", "")
pytestmark = pytest.mark.skipif(not SOURCE, reason="a file of 98 MB: make real-model fetches it and names it here")
PARAMETERS = 134_515_008
LENGTH = 512


@pytest.fixture
def model(take: Callable[..., Imported]) -> Imported:
    return take(Path(SOURCE), end_of_document=None)


def test_its_logits_and_its_text_are_those_of_transformers(model: Imported, give: Callable[..., Path]) -> None:
    folder = give(model.path)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(theirs).__name__ == "LlamaForCausalLM"
    assert sum(each.numel() for each in theirs.parameters()) == model.manifest["parameters"] == PARAMETERS
    text = next(entry.text for entry in Sotu().documents("validation", "") if entry.text)[:4000]
    tokens = model.encode(text)[:, :LENGTH]
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"][:LENGTH] == tokens[0].tolist()
    ours = model.decoder()
    with torch.inference_mode():
        wanted, found = ours(tokens), theirs(tokens).logits
        exact = model.decoder().double()
        exact.compute_dtype = torch.float64
        truth = exact(tokens)
        written = theirs.generate(tokens[:, :200], max_new_tokens=20, do_sample=False, eos_token_id=-1)[0, 200:]
    greatest = float(truth.abs().max())
    # Both are as far from the decoder in float64.
    errors = [float((each - truth).abs().max()) / greatest for each in (wanted, found)]
    assert max(errors) < 1e-5, errors
    assert greedy(ours, tokens[:, :200], 20)[0].tolist() == written.tolist()


def test_what_is_exported_and_imported_again_is_the_same_model(
    model: Imported, take: Callable[..., Imported], give: Callable[..., Path], tmp_path: Path
) -> None:
    assert take(give(model.path), runs=str(tmp_path / "again"), end_of_document=None).digest == model.digest


def test_import_and_export_need_at_most_1_3_times_the_weights_beyond_the_process_before_loading(tmp_path: Path) -> None:
    def peak(do: str) -> int:
        script = (
            "import resource; import lab.experiment.importing, lab.experiment.handing_on, lab.exchange.gguf\n"
            "import gguf, lab.experiment.settings as settings; from lab.experiment.compose import settings_of\n"
            f"{do}\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
        )
        out = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
        return int(out.stdout.splitlines()[-1])

    before = peak("")
    for reading in ("rope", "nope"):  # before the encoding is changed the weights are tried with RoPE
        importing = (
            "given = settings_of('import_model', settings.ImportSettings, ['source=x'])\n"
            f"given = given.with_values(source='{SOURCE}', model='{reading}')\n"
            "lab.experiment.importing.import_model(given, '')"
        )
        assert peak(importing) - before < 1.3 * PARAMETERS * 4, reading
    (run,) = (tmp_path / "runs").glob("rope-*")
    for form, to in (("huggingface", "folder"), ("gguf", "file.gguf")):
        exporting = (
            f"given = settings_of('export', settings.ExportSettings, ['run={run}', 'to={to}', 'format={form}'])\n"
            "lab.experiment.handing_on.hand_on(given)"
        )
        assert peak(exporting) - before < 1.3 * PARAMETERS * 4, form
