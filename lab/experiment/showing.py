"""What a rule makes of RoPE's frequencies, pair by pair: a table in the terminal and as a file, and a picture."""

import math

import numpy as np

from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.base.tables import Row, write_table
from lab.extension.rope_rules import RopeRule, ntk_divisors, plain_frequencies, rope_rule, rotations
from lab.runs.derived import Derived


def show_rule(run: Derived) -> None:
    """Print the frequencies of a derived run, and write ``rope.csv`` and ``rope.png`` to its directory.

    Raises:
        UserError: no rule turns its RoPE.
    """
    from lab.report.figures import pairs_figure
    from lab.report.pictures import save

    rule = rope_rule(run.extensions)
    if rule is None:
        raise UserError(f"show=true shows frequencies of RoPE, and {run.path} leaves them as they are: leave it out")
    base, head_dim = float(run.config.model.position.base), int(run.config.scale.head_dim)
    rows, boundaries = pair_rows(rule, base, head_dim), rule.boundaries(base, head_dim)
    write_table(run.path / "rope.csv", rows)
    compared = {}
    if rule.reached > rule.length:
        s = rule.reached / rule.length
        compared = {"position interpolation": np.full(head_dim // 2, s), "NTK": ntk_divisors(s, head_dim)}
    title = f"{rule.label}: base {base:g}, {head_dim} dimensions a head, L = {rule.length:,}"
    save(pairs_figure(rows, compared, boundaries, title), run.path / "rope")
    console = Console()
    console.print(_table(rows, title))
    for name, index in boundaries.items():
        console.print(f"{name} is at pair {index:.2f} of {head_dim // 2}")
    console.print(f"{run.path / 'rope.csv'}, rope.png")


def pair_rows(rule: RopeRule, base: float, head_dim: int) -> list[Row]:
    """A row for each pair and set of frequencies.

    Of a rule by the length of a text there is a set for each of its lengths; dynamic NTK is told at L, 2 L, 4 L, 8 L.
    """
    lengths = [rule.length]
    if rule.by_length != "no":
        lengths = [rule.length * times for times in (1, 2, 4, 8)]
        lengths += [each for limit in getattr(rule, "up_to", []) for each in (limit, limit + 1)]
    of_versions = {rule.version(each): each for each in sorted(lengths)}
    plain, turns = plain_frequencies(base, head_dim), rotations(base, head_dim, rule.length)
    rows: list[Row] = []
    for length in of_versions.values():
        found = rule.frequencies(base, head_dim, length)
        for pair in range(head_dim // 2):
            rows.append(
                {
                    "length": length if len(of_versions) > 1 else None,
                    "pair": pair,
                    "turns_within_context": float(turns[pair]),
                    "wavelength_tokens": 2 * math.pi / float(plain[pair]),
                    "inverse_frequency": float(plain[pair]),
                    "factor": float(found.divisors[pair]),
                    "extended_inverse_frequency": float(plain[pair] / found.divisors[pair]),
                    "attention_factor": found.attention_factor,
                    "kept": found.kept,
                }
            )
    return rows


def _table(rows: list[Row], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    several = rows[0]["length"] is not None
    columns = ["pair", "turns within L", "wavelength", "frequency", "factor", "extended", "on cos and sin"]
    for name in [*(["text up to"] * several), *columns]:
        table.add_column(name, justify="right")
    for row in rows:
        told = [f"{row['length']:,}"] if several else []
        told += [f"{row['pair']}", f"{row['turns_within_context']:.3g}", f"{row['wavelength_tokens']:,.1f}"]
        told += [f"{row[name]:.4g}" for name in ("inverse_frequency", "factor", "extended_inverse_frequency")]
        table.add_row(*told, f"{row['attention_factor']:.4g}")
    return table
