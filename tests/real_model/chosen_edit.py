"""Of edits that were tried on some facts, each alone, the one that does best: the name of its folder.

python tests/real_model/chosen_edit.py FOLDER...

Best is the greatest harmonic mean of three shares after the edit, by the likelier of two answers: facts and paraphrases
that say the target, neighbours that do not (the score S of Meng et al. 2022, ROME).
"""

import sys
from pathlib import Path
from statistics import harmonic_mean, mean

from lab.base.tables import read_table
from lab.experiment.edit_scoring import PARTS, shares


def score(folder: Path) -> float:
    """The harmonic mean; 0 if one share is."""
    rows = read_table(folder / "edit_scores.csv", ("number", "part", "moment", "likelier"))
    return harmonic_mean([mean(shares(rows, part, "likelier", "after")) for part in PARTS])


def main(folders: list[str]) -> None:
    scores = {folder: score(Path(folder)) for folder in folders}
    for folder, found in sorted(scores.items(), key=lambda each: -each[1]):
        print(f"{found:.3f} {Path(folder).name}", file=sys.stderr)
    print(Path(max(scores, key=lambda folder: scores[folder])).name)


if __name__ == "__main__":
    main(sys.argv[1:])
