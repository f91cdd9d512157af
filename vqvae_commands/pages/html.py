"""Pieces of HTML pages, and the pages: each whole in one file, without scripts.

Arguments named `content`, and the `body` of a page, are HTML; all other text is plain and is
escaped here.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from vqvae_jax.saving.bundle import write


def save(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    write(path, lambda file: file.write(content))


class Page(NamedTuple):
    """A whole page: the title, the line below it, and the body."""

    title: str
    lead: str
    body: str

    def save(self, path: Path) -> None:
        """Writes the page."""
        title, lead = escape(self.title), escape(self.lead)
        save(path, TEMPLATE.substitute(title=title, lead=lead, body=self.body).encode())


def together(pages: Mapping[str, Page]) -> str:
    """Returns the body of a page of several, each below its name, with links to them at the top."""
    names = [escape(name) for name in pages]
    links = "".join(f'<li><a href="#part{i}">{name}</a></li>' for i, name in enumerate(names))
    parts = (
        f'<h1 id="part{i}">{name}</h1>\n{paragraph(page.lead)}\n{page.body}'
        for i, (name, page) in enumerate(zip(names, pages.values(), strict=True))
    )
    return "\n\n".join([section(f"<ol>{links}</ol>"), *parts])


def section(*content: str) -> str:
    """Returns a card of the page."""
    return f"<section>{''.join(content)}</section>"


def heading(text: str) -> str:
    """Returns the heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def headline(numbers: Mapping[str, str]) -> str:
    """Returns the section of the most important numbers, in large letters, by their names."""
    shown = "".join(f"<div>{bold(v)}<span>{escape(k)}</span></div>" for k, v in numbers.items())
    return f'<section class="headline">{shown}</section>'


def picture(title: str, caption: str, png: bytes) -> str:
    """Returns a section with a picture inside the page, below its heading and caption."""
    data = base64.b64encode(png).decode()
    image = f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'
    return section(heading(title), paragraph(caption), scroll(image))


def folded(title: str, text: str) -> str:
    """Returns a text in letters of one width, hidden until the reader opens its title."""
    return f"<details><summary>{escape(title)}</summary>{preformatted(text)}</details>"


def table(lines: Sequence[Sequence[str]]) -> str:
    """Returns a table, whose first line is the head.

    Args:
        lines: equally many entries each. The head and the first entry of each line are plain text,
            the others HTML.
    """
    head, *body = lines
    titles = "".join(f"<td>{small(title)}</td>" for title in head)
    return f"<table><tr>{titles}</tr>{''.join(row(escape(x), *rest) for x, *rest in body)}</table>"


def row(title: str, *content: str) -> str:
    """Returns a row of a table; its title is HTML too."""
    return f"<tr><th scope=row>{title}</th>{''.join(f'<td>{x}</td>' for x in content)}</tr>"


def unheaded(lines: Iterable[Sequence[str]]) -> str:
    """Returns a table without a head, whose entries are HTML."""
    return f"<table>{''.join(row(*line) for line in lines)}</table>"


def option_table(values: Mapping[str, str]) -> str:
    """Returns a table of the values of options, by their names."""
    rows = "".join(row(code(name), escape(value)) for name, value in values.items())
    return f'<table class="options">{rows}</table>'


def facts(values: Mapping[str, str]) -> str:
    """Returns a table of values by their names, which are words and not names of options."""
    rows = "".join(row(escape(name), escape(value)) for name, value in values.items())
    return f'<table class="options">{rows}</table>'


def scroll(content: str) -> str:
    """Returns a box for what may be wider than the page."""
    return f'<div class="scroll">{content}</div>'


def bullets(lines: Iterable[str]) -> str:
    """Returns a list with one item for each line."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def terms(meanings: Mapping[str, str]) -> str:
    """Returns one line for each term, with its meaning."""
    return "<br>".join(f"{bold(term)}: {escape(text)}" for term, text in meanings.items())


def text(text: str) -> str:
    """Returns plain text as HTML."""
    return escape(text)


def paragraph(text: str) -> str:
    """Returns a paragraph."""
    return f"<p>{escape(text)}</p>"


def bold(text: str) -> str:
    """Returns the text in bold."""
    return f"<b>{escape(text)}</b>"


def explained(text: str, meaning: str) -> str:
    """Returns the text with its meaning in small letters."""
    return escape(text) + small(meaning)


def small(text: str) -> str:
    """Returns the text in small letters."""
    return f"<small>{escape(text)}</small>"


def note(content: str) -> str:
    """Returns a paragraph in small letters."""
    return f"<p><small>{content}</small></p>"


def code(text: str) -> str:
    """Returns the text in letters of one width, within a line."""
    return f"<code>{escape(text)}</code>"


def preformatted(text: str) -> str:
    """Returns the text in letters of one width, with its lines as they are."""
    return f"<pre>{escape(text)}</pre>"


TEMPLATE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --ink: #1d2127; --soft: #646b76;
  --line: #e3e6ea }
@media (prefers-color-scheme: dark) { :root { --page: #0e1013; --card: #17191d; --ink: #e7e9ec;
  --soft: #989fab; --line: #2a2e34 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
main { max-width: 60rem; margin: auto; padding: clamp(1rem, 4vw, 2.5rem) }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; overflow-wrap: anywhere }
h2 { margin: 0 0 .25rem; font-size: 1.15rem }
p, small { color: var(--soft) }
p { margin: 0 0 1rem; overflow-wrap: anywhere }
section, details { background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  padding: clamp(1rem, 3vw, 1.5rem); margin-top: 1rem }
.headline { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr));
  gap: 1rem }
.headline b { display: block; font-size: 1.5rem; white-space: nowrap }
.headline span, small { font-size: .85rem; color: var(--soft) }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums }
tr + tr { border-top: 1px solid var(--line) }
th, td { padding: .45rem 0; text-align: left; vertical-align: top; font-weight: normal }
th small { display: block }
td { text-align: right; white-space: nowrap; padding-left: 1rem }
.options td { white-space: normal; overflow-wrap: anywhere }
.scroll { overflow-x: auto }
.scroll table { font-size: .85rem }
.scroll th { min-width: 5rem }
img { display: block; max-width: max(100%, 36rem); margin: auto }
summary { cursor: pointer; font-weight: 600; font-size: 1.15rem }
pre { margin: 1rem 0; font-size: .8rem; white-space: pre-wrap; overflow-wrap: anywhere }
pre:first-child { margin-top: 0 }
pre:last-child { margin-bottom: 0 }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace }
</style>
</head>
<body>
<main>
<h1>$title</h1>
<p>$lead</p>
$body
</main>
</body>
</html>
""")
