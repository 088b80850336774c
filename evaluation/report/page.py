"""One HTML page that holds the whole evaluation: no file beside it is needed."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.report.tables import Table
from utils.files import atomic_write

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin-bottom: .3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid #8884; white-space: nowrap; }
thead th { border-bottom: 2px solid #888; }
img { max-width: 100%; height: auto; background: #fff; }
p.note { color: #777; font-size: .9rem; max-width: 60rem; }
pre { overflow-x: auto; background: #8881; padding: .8rem; }
"""


@dataclass(frozen=True)
class Section:
    """Hold one part of the page: text, tables and pictures in this order."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    images: Sequence[Path] = ()
    code: str = ""


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page; pictures are embedded."""
    body = "\n".join(_section(section) for section in sections)
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )
    with atomic_write(path, "w") as stream:
        stream.write(page)


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    parts += [f"<p>{html.escape(section.text)}</p>"] if section.text else []
    parts += [_table(table) for table in section.tables]
    parts += [_image(image) for image in section.images]
    parts += [f"<pre>{html.escape(section.code)}</pre>"] if section.code else []
    return "\n".join(parts)


def _table(table: Table) -> str:
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in table.columns)
    rows = "\n".join("<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f'\n<p class="note">{_inline(table.note)}</p>' if table.note else ""
    return (
        f"<h3>{_inline(table.title)}</h3>\n"
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>{note}'
    )


def _inline(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text))


def _image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"></p>'
