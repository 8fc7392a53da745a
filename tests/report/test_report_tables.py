"""The short table of a run on the terminal."""

import math

from rich.console import Console

from lab.report.terminal import SUMMARY, summary_table


def summary_row(**changes) -> dict:
    values = ("excess", 1024, 2048, 0.25, 0.125, 0.5, 11)
    return dict(zip(SUMMARY, values, strict=True)) | changes


def shown(rows: list[dict]) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(summary_table("rope", rows))
    return capture.get()


def test_the_summary_shows_positions_mean_and_interval():
    text = shown([summary_row()])
    assert "1024 to 2047" in text
    assert "0.250" in text
    assert "0.125 to 0.500" in text
    assert "over 11 held-out documents" in text


def test_an_interval_that_is_not_known_is_not_shown_as_a_number():
    text = shown([summary_row(low_nats=math.nan, high_nats=math.nan, documents=1)])
    assert "not known" in text
    assert "nan" not in text
    assert "over 1 held-out document;" in text
