"""Hand trained runs on and hold transformers' perplexities against the lab's: a table.

    python tests/exchange/exported_table.py docs/exported.csv runs/pilot/*-seed0-*

Each run is scored by `lab.extrapolate measure=truncated_perplexity` on held-out documents (C/2 to 8C), exported by
`lab.export`, and loaded by transformers, which is given nothing but the exported folder and the texts. Exit code 1 if a
perplexity differs in its first four digits by more than one in the last.
"""

import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab.base.parts import build
from lab.base.tables import Row, write_table
from lab.observe.scoring import rows_of
from lab.runs.model import Model
from lab.runs.run import open_model

DOCUMENTS = 5
LONGEST = 8


def main(table: str, *paths: str) -> None:
    command = ["lab.extrapolate", f"runs=[{','.join(paths)}]", "measure=truncated_perplexity"]
    subprocess.run(
        [sys.executable, "-m", *command, f"scoring.longest={LONGEST}", f"scoring.documents={DOCUMENTS}"], check=True
    )
    lines = [line for path in paths for line in lines_of(open_model(path))]
    write_table(Path(table), lines)
    print("| variant | first L tokens | the lab | transformers |\n|---|---|---|---|")
    for line in lines:
        print(f"| `{line['variant']}` | {line['length_tokens']:,} | {line['lab']:.4g} | {line['transformers']:.4g} |")
    worst = max(abs(line["lab"] / line["transformers"] - 1) for line in lines)
    print(f"greatest difference: {worst:.1e} of the perplexity")
    sys.exit(worst > 1e-3)


def lines_of(model: Model) -> list[Row]:
    """Of each length the perplexity of the same tokens here and there, over all documents."""
    records = model.manifest["measured"].values()
    settings = {record["setting"] for record in records if record["measure"] == "truncated_perplexity"}
    rows = rows_of(model, settings)
    corpus = build("corpus", model.corpus)
    texts = {entry.name: entry.text for entry in corpus.documents("test", "")}
    with tempfile.TemporaryDirectory() as folder:
        to = f"{folder}/exported"
        subprocess.run([sys.executable, "-m", "lab.export", f"run={model.path}", f"to={to}"], check=True)
        theirs = AutoModelForCausalLM.from_pretrained(to, trust_remote_code=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(to)
    lines = []
    for length in sorted({row["length_tokens"] for row in rows}):
        own = [row for row in rows if row["length_tokens"] == length]
        losses = []
        for row in own:
            tokens = tokenizer(texts[row["document"]], return_tensors="pt")["input_ids"][:, : length + 1]
            with torch.inference_mode():
                logits = theirs(tokens[:, :-1]).logits[0].double()
            losses.append(float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:])))
        here, there = (sum(each) / len(own) for each in ([row["loss_nats"] for row in own], losses))
        told = {"variant": model.label, "length_tokens": length, "documents": len(own)}
        lines.append(told | {"lab": math.exp(here), "transformers": math.exp(there)})
    return lines


if __name__ == "__main__":
    main(*sys.argv[1:])
