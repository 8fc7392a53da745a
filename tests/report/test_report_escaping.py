"""A report of runs and documents of any name: no HTML of theirs, no line break, no link that leads elsewhere."""

import re
from pathlib import Path

import pytest

from lab.report import page
from lab.report.page import PageTable, Section, fence, in_markdown, write_page

HOSTILE = "<script>alert(1)</script>\n# a heading\n[here](javascript:x) | \x1b[31m & <img src=x onerror=y>"


def test_no_name_brings_html_or_a_line_of_its_own_into_a_report(tmp_path: Path) -> None:
    table = PageTable([HOSTILE], [[HOSTILE]], caption=HOSTILE, file=HOSTILE)
    write_page(tmp_path, HOSTILE, [HOSTILE], [Section(HOSTILE, [HOSTILE], [HOSTILE], [table])])
    html, text = ((tmp_path / f"report.{kind}").read_text() for kind in ("html", "md"))
    for told in (html, text):
        assert "<script>alert" not in told
        assert "<img src=x" not in told
        assert "&lt;script&gt;" in told.replace("&lt;script>", "&lt;script&gt;")
    assert "](javascript:" not in text
    assert "\x1b" not in text
    assert not any(line.startswith("# a heading") for line in text.splitlines())
    (row,) = [line for line in text.splitlines() if line.startswith("| ") and "script" in line][1:]
    assert row.count("|") - row.count("\\|") == 2


def test_nothing_comes_into_the_markdown_without_a_filter() -> None:
    template = (Path(page.__file__).parent / "report.md.jinja").read_text()
    shown = re.findall(r"{{ *(.*?) *}}", template)
    assert [each for each in shown if not re.search(r"\|(line|fence|map\(\"cell\"\)\|join.*)$", each)] == [
        "picture.name",
        "block",
    ]


def test_what_is_written_for_readers_stays_as_it_is() -> None:
    told = "rope is -0.5 to +0.1 nats better than nope [12] (p > 0.05)"
    assert in_markdown(told) == told


@pytest.mark.parametrize(("block", "signs"), [("python -m lab.compare", 3), ("a\n```\nb", 4), ("`````", 6)])
def test_a_block_of_code_ends_where_it_ends(block: str, signs: int) -> None:
    assert fence(block) == "`" * signs
