"""One HTML page of text, tables and pictures, which needs no other file and no network."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 52rem; padding: 1rem; color: #222; background: #fff;
       font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 3rem; }
p { margin: 0.6rem 0 0; padding-left: calc(1.5rem * var(--level, 0)); }
p + p[style] { margin-top: 0; }
small { color: #666; white-space: nowrap; }
pre, .table { overflow-x: auto; font-size: 0.8rem; line-height: 1.4; }
img { display: block; width: 100%; height: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.1rem 0.7rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid #999; }
"""

#: Spaces by which a line is indented a level further.
_INDENT = 4

#: Times at the end of a line.
_TIMES = re.compile(r"\s{3}\((first call [^)]*)\)$")


class Item(NamedTuple):
    """What a section has: a line of text, or the name of a file."""

    kind: str  #: "line", "picture" or "table"
    content: str


def page(title: str, sections: Iterable[Sequence[Item]], folder: Path) -> str:
    """The page; the first line of a section is its heading, and its files are in `folder`."""
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
        f"<h1>{escape(title)}</h1>",
    ]
    for section in filter(None, sections):
        parts += ["<section>", *_section(section, folder), "</section>"]
    return "\n".join([*parts, "</body>\n</html>\n"])


def _section(items: Sequence[Item], folder: Path) -> Iterator[str]:
    first = next(i for i, item in enumerate(items) if item.kind == "line" and item.content.strip())
    yield f"<h2>{escape(items[first].content)}</h2>"
    rest = [*items[:first], *items[first + 1 :]]
    for (kind, columns), group in groupby(rest, lambda item: (item.kind, _in_columns(item))):
        contents = [item.content for item in group]
        if kind == "picture":
            yield from (_picture(folder / name) for name in contents)
        elif kind == "table":
            yield from (_table(folder / name) for name in contents)
        elif columns:
            yield f"<pre>{escape(chr(10).join(contents))}</pre>"
        else:
            yield from map(_paragraph, _joined(contents))


def _joined(lines: Sequence[str]) -> list[str]:
    """Lines without blank ones; of those that are not indented, a text is made one."""
    joined: list[str] = []
    before = ""
    for line in lines:
        if _is_text(before) and _is_text(line) and not before.endswith(":"):
            joined[-1] += f" {line}"
        elif line.strip():
            joined.append(line)
        before = line
    return joined


def _is_text(line: str) -> bool:
    """Whether a line is neither blank nor indented, and no result with its times."""
    return bool(line) and not line.startswith(" ") and not _TIMES.search(line)


def _in_columns(item: Item) -> bool:
    """Whether a line is a row of a table: it has more than one gap inside."""
    return item.kind == "line" and len(re.findall(r"\S {2,}(?=\S)", _TIMES.sub("", item.content))) > 1


def _paragraph(line: str) -> str:
    level = (len(line) - len(line.lstrip())) // _INDENT
    text = _TIMES.sub(r" <small>\1</small>", escape(line.strip()))
    return f'<p style="--level: {level}">{text}</p>' if level else f"<p>{text}</p>"


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(path.stem.replace("_", " "))}" src="data:image/png;base64,{data}">'


def _table(path: Path) -> str:
    head, *rows = (line.split(",") for line in path.read_text().splitlines())

    def row(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(
        [row([cell.replace("_", " ") for cell in head], "th"), *(row(one, "td") for one in rows)]
    )
    return (
        f"<details><summary>{escape(path.name)}</summary>\n"
        f'<div class="table"><table>\n{body}\n</table></div></details>'
    )
