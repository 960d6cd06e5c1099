"""Lay Markdown out with one sentence a line, so that a change of a sentence is a change
of a line.

    python ops/sentences.py            # rewrite the pages of this checkout
    python ops/sentences.py --check    # name the pages that would change, and exit with 1

A page renders the same before and after: paragraphs and items of lists are laid out,
everything else (code, tables, headings, quotations, HTML, front matter) stays as it is.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_ITEM = re.compile(r"^( *)([-*+]|\d+\.) +(?=\S)")
_FENCE = re.compile(r"^ *(```+|~~~+)")
_KEPT = re.compile(r"^ *(\||#{1,6} |>|<|(?:-{3,}|\*{3,}|={3,}) *$)|(?: {2}|\\)$")
_WHOLE = re.compile(r"(`+).+?\1|!?\[[^\]]*\]\([^)\s]*\)")  # code and links: no sentence ends inside
_END = re.compile(r"""(?<=[.!?])(["')*_]*) (?=["'(*_]*[A-Z0-9\x00])""")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|resp|approx)|^\W*\d+)\.$")
# text that at the beginning of a line would begin a list or a heading
_MARKER = re.compile(r"^(?:\d+[.)]|[-+*#>|=])(?:\s|$)")


def pages() -> list[Path]:
    return sorted(
        [
            *ROOT.glob("*.md"),
            *ROOT.glob("docs/**/*.md"),
            *ROOT.glob("tests/**/*.md"),
            *ROOT.glob(".github/**/*.md"),
        ]
    )


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph of one line; a label in bold stays with the sentence
    that it labels.
    """
    kept: list[str] = []

    def hide(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\x00{len(kept) - 1}\x01"

    hidden = _WHOLE.sub(hide, paragraph)
    lines, begin = [], 0
    for end in _END.finditer(hidden):
        before, after = hidden[begin : end.end() - 1], hidden[end.end() :]
        isLabel = end[1].startswith("**") and before.startswith("**") and before.count("**") == 2
        if isLabel or _ABBREVIATION.search(before) or _MARKER.match(after):
            continue
        lines.append(before)
        begin = end.end()
    lines.append(hidden[begin:])
    return [re.sub(r"\x00(\d+)\x01", lambda match: kept[int(match[1])], line) for line in lines]


def laidOut(text: str) -> str:
    """The page with one sentence a line."""
    result: list[str] = []
    paragraph: list[str] = []
    first = rest = ""  # the indentation of the first line of the paragraph, and of the others

    def finish() -> None:
        if paragraph:
            lines = sentences(" ".join(paragraph))
            result.extend([first + lines[0], *(rest + line for line in lines[1:])])
            paragraph.clear()

    fence = ""
    isHtml = False
    for line in text.splitlines():
        opening = _FENCE.match(line)
        if fence:
            fence = "" if opening and line.strip() == fence else fence
            result.append(line)
        elif opening:
            finish()
            fence = opening[1]
            result.append(line)
        elif isHtml or not line.strip() or _KEPT.search(line):
            finish()
            isHtml = ("<!--" in line or isHtml) and "-->" not in line
            result.append(line)
        elif item := _ITEM.match(line):
            finish()
            first, rest = item[0], " " * len(item[0])
            paragraph.append(line[item.end() :].strip())
        elif paragraph:
            paragraph.append(line.strip())
        else:
            first = rest = line[: len(line) - len(line.lstrip())]
            paragraph.append(line.strip())
    finish()
    return "\n".join(result) + "\n"


def main(arguments: list[str]) -> int:
    changed = [page for page in pages() if laidOut(page.read_text()) != page.read_text()]
    for page in changed:
        print(page.relative_to(ROOT))
        if "--check" not in arguments:
            page.write_text(laidOut(page.read_text()))
    return int("--check" in arguments and bool(changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
