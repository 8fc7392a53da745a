"""A report as one page without network (report.html, which prints well) and as Markdown (report.md)."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from lab.base.files import write_whole
from lab.base.shown import plain


@dataclass(frozen=True)
class PageTable:
    """A table as it is shown: texts. ``file`` is where all its numbers are; if ``folded`` only its caption is shown
    until it is opened, and it is not printed."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    file: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture beside the page, ``<name>.png``."""

    name: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it, in this order."""

    title: str
    paragraphs: Sequence[str] = ()
    points: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    pictures: Sequence[Picture] = ()
    code: Sequence[str] = field(default_factory=tuple)


def in_markdown(text: object) -> str:
    """A text as one line of Markdown that holds no HTML and leads nowhere."""
    line = " ".join(plain(text, keep="\n").split("\n"))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")


def fence(block: str) -> str:
    """The signs around a block of code: more than stand together in it."""
    longest = max((len(run) for run in re.findall("`+", block)), default=0)
    return "`" * max(3, longest + 1)


def write_page(folder: Path, title: str, notices: Sequence[str], sections: Sequence[Section]) -> None:
    """Write ``report.html``, its pictures inside it, and ``report.md``, which names them.

    Args:
        notices: what every reader must see first, such as differences that were allowed.

    Raises:
        UserError: a file cannot be written.
        FileNotFoundError: a picture is missing.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name == "report.html.jinja",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def inside(picture: Picture) -> str:
        content = base64.b64encode((folder / f"{picture.name}.png").read_bytes()).decode()
        return f"data:image/png;base64,{content}"

    environment.globals["inside"] = inside
    environment.filters["cell"] = lambda text: in_markdown(text).replace("|", "\\|")
    environment.filters["line"] = in_markdown
    environment.filters["fence"] = fence
    for name in ("report.html", "report.md"):
        text = environment.get_template(f"{name}.jinja").render(title=title, notices=notices, sections=sections)
        write_whole(folder / name, text.encode())
