"""Find the quote of a mutant in a source, in any layout of both.

A quote is some text of a source. Whitespace outside of string literals, comments, a
comma before a closing bracket and the parentheses that a formatter puts around a long
expression take no part in the comparison: a reformat of the source moves no mutant. A
newline counts only where it ends a statement of Python.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

_STRING = r"""(?<!\w)(?:[rRbBfFuU]{0,2})(?:\"{3}(?:\\.|[^\\])*?(?:\"{3}|\Z)|"(?:\\.|[^"\\\n])*(?:"|\Z)|'(?:\\.|[^'\\\n])*(?:'|\Z))"""
_PYTHON = re.compile(
    rf"(?P<comment>\#[^\n]*)|(?P<string>{_STRING})|(?P<space>(?:[ \t\f]|\\\n)+)|(?P<newline>\n)|(?P<word>\w+)|(?P<other>.)",
    re.S,
)
_C = re.compile(
    rf"(?P<comment>//[^\n]*|/\*.*?(?:\*/|\Z))|(?P<string>{_STRING})|(?P<space>(?:\s|\\\n)+)|(?P<word>\w+)|(?P<other>.)",
    re.S,
)
#: The text that may stand between the end of a statement and the end of its line.
_REST = re.compile(r"[ \t]*(?:#[^\n]*|/\*[^\n]*\*/[ \t]*|//[^\n]*)?\n")
_OPENING, _CLOSING = "([{", ")]}"
#: In a reduced source: parentheses that open at the end of a line and call nothing, as
#: a formatter adds them.
_ADDED_OPENING, _ADDED_CLOSING = "\x01", "\x02"
#: A "(" after one of these words calls nothing.
_KEYWORD = re.compile(
    "return|yield|in|not|and|or|if|elif|while|assert|await|else|is|lambda|del|with|from|raise|for"
)


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


class _Reduced(NamedTuple):
    """A text without its layout, and where each of its characters begins and ends in
    the text.
    """

    text: str
    starts: list[int]
    ends: list[int]


def _isC(file: str) -> bool:
    return file.endswith((".c", ".h"))


def _tokensOf(text: str, file: str) -> list[_Token]:
    """The parts of a text that are compared; a newline is one only where no bracket of
    the text itself is around it.
    """
    lexer = _C if _isC(file) else _PYTHON
    found = [
        _Token(str(each.lastgroup), each.group(), each.start(), each.end())
        for each in lexer.finditer(text)
    ]
    found = [each for each in found if each.kind not in ("comment", "space")]
    depths, depth = [], 0
    for each in found:
        depth += (each.text in _OPENING) - (each.text in _CLOSING) if each.kind == "other" else 0
        depths.append(depth)
    lowestBefore, lowestBehind = [0] * len(found), [0] * len(found)
    lowest = 0
    for at, depth in enumerate(depths):
        lowest = lowestBefore[at] = min(lowest, depth)
    lowest = depths[-1] if depths else 0
    for at in reversed(range(len(found))):
        lowest = lowestBehind[at] = min(lowest, depths[at])
    kept: list[_Token] = []
    for at, each in enumerate(found):
        if each.kind == "newline" and (
            depths[at] > max(lowestBefore[at], lowestBehind[at])
            or (kept and kept[-1].kind == "newline")
        ):
            continue
        if each.text in (*_CLOSING,) and kept and kept[-1].text == "," and not _isC(file):
            kept.pop()
        kept.append(each)
    return kept


def _isWord(character: str) -> bool:
    return character.isalnum() or character == "_"


def _withAddedMarked(tokens: list[_Token], text: str) -> list[_Token]:
    """The reduced text, in which parentheses that a formatter may have added have
    characters of their own.
    """
    marked, opened = list(tokens), []
    for at, each in enumerate(tokens):
        if each.kind != "other":
            continue
        if each.text in _OPENING:
            before = tokens[at - 1] if at else None
            calls = before is not None and (
                before.kind == "string"
                or before.text in (*_CLOSING,)
                or (before.kind == "word" and not _KEYWORD.fullmatch(before.text))
            )
            isLast = text[each.end :].lstrip(" \t").startswith(("\n", "#"))
            opened.append(at if each.text == "(" and isLast and not calls else -1)
        elif each.text in _CLOSING and opened and (start := opened.pop()) >= 0:
            marked[start] = marked[start]._replace(text=_ADDED_OPENING)
            marked[at] = each._replace(text=_ADDED_CLOSING)
    return marked


@functools.lru_cache(maxsize=4)
def _reduced(text: str, file: str) -> _Reduced:
    tokens = _tokensOf(text, file)
    if not _isC(file):
        tokens = _withAddedMarked(tokens, text)
    result = _Reduced("", [], [])
    parts: list[str] = []
    for each in tokens:
        if parts and _isWord(parts[-1][-1]) and _isWord(each.text[0]):
            parts.append(" ")
            result.starts.append(each.start)
            result.ends.append(each.start)
        parts.append(each.text)
        result.starts.extend(range(each.start, each.end))
        result.ends.extend(range(each.start + 1, each.end + 1))
    return result._replace(text="".join(parts))


def _patternOf(quote: str, file: str, newline: str) -> re.Pattern[str]:
    between = f"[{_ADDED_OPENING}{_ADDED_CLOSING}]*"
    parts: list[str] = []
    tokens = _tokensOf(quote, file)
    for before, each in zip([None, *tokens], tokens):
        if before is not None:
            parts.append(between)
            if _isWord(before.text[-1]) and _isWord(each.text[0]):
                parts.append(f"[ {_ADDED_OPENING}{_ADDED_CLOSING}]")
                parts.append(between)
        if each.kind == "other" and each.text in "()":
            parts.append(
                f"[{re.escape(each.text)}{_ADDED_OPENING if each.text == '(' else _ADDED_CLOSING}]"
            )
        elif each.text == "," and "".join(token.text for token in tokens[tokens.index(each) :]) in (
            ",",
            ",\n",
        ):
            parts.append(",?")  # The source may have a bracket after it.
        else:
            parts.append(newline if each.kind == "newline" else re.escape(each.text))
    starts = r"(?<!\w)" if quote[:1].isspace() and _isWord(tokens[0].text[0]) else ""
    ends = r"(?!\w)" if quote[-1:].isspace() and _isWord(tokens[-1].text[-1]) else ""
    return re.compile(starts + "".join(parts) + ends)


def _unmatched(text: str) -> tuple[list[int], list[int]]:
    """Where a reduced text opens parentheses that it does not close, and where it
    closes those that it does not open.
    """
    opened: list[int] = []
    closed: list[int] = []
    for at, character in enumerate(text):
        if character in ("(", _ADDED_OPENING):
            opened.append(at)
        elif character in (")", _ADDED_CLOSING):
            if opened:
                opened.pop()
            else:
                closed.append(at)
    return opened, closed


def _plain(text: str) -> str:
    return text.replace(_ADDED_OPENING, "").replace(_ADDED_CLOSING, "")


class Passage(NamedTuple):
    """Where a source has a quote.

    Attributes
    ----------
    start, end
        The part of the source, with the layout around it that the quote has too.
    before, behind
        In their reduced form: the text of the quote before a parenthesis that a
        formatter opened in this part and closed after it, and the text after a
        parenthesis that it opened before this part.
    """

    start: int
    end: int
    before: list[str]
    behind: list[str]

    def replaced(self, source: str, new: str, file: str) -> str:
        """The source with other text here; the parentheses that a formatter put around
        more than this stay in pairs.
        """
        for text in self.before:
            reduced = _reduced(new, file)
            at = (
                reduced.ends[len(text) - 1]
                if text and _plain(reduced.text).startswith(text)
                else len(new) - len(new.lstrip())
            )
            new = f"{new[:at]} ({new[at:]}"
        for text in self.behind:
            reduced = _reduced(new, file)
            at = (
                reduced.starts[-len(text)]
                if text and _plain(reduced.text).endswith(text)
                else len(new.rstrip())
            )
            new = f"{new[:at]}){new[at:]}"
        return source[: self.start] + new + source[self.end :]


def placesOf(quote: str, source: str, file: str) -> list[Passage]:
    """The places of the quote in the source of a file."""
    reduced = _reduced(source, file)
    # A quote from the middle of brackets does not show that its newlines end no
    # statement.
    matches = next(
        (
            some
            for newline in ("\n", "\n?")
            if (some := [*_patternOf(quote, file, newline).finditer(reduced.text)])
        ),
        [],
    )
    leading = len(quote) - len(quote.lstrip(" \t"))
    found, indents = [], []
    wanted = _unmatched(_reduced(quote, file).text)
    for match in matches:
        first, last = match.span()
        opened, closed = _unmatched(reduced.text[first:last])
        while len(opened) > len(wanted[0]) and reduced.text[last : last + 1] == _ADDED_CLOSING:
            last += 1
            opened, closed = _unmatched(reduced.text[first:last])
        text = reduced.text[first:last]
        before = [_plain(text[:at]) for at in opened if text[at] == _ADDED_OPENING][
            : len(opened) - len(wanted[0])
        ]
        behind = [_plain(text[at + 1 :]) for at in closed if text[at] == _ADDED_CLOSING][
            : len(closed) - len(wanted[1])
        ]
        start, end = reduced.starts[first], reduced.ends[last - 1]
        line = source.rfind("\n", 0, start) + 1
        indents.append(start - line if leading and not source[line:start].strip() else -1)
        start = max(start - leading, line if source[line:start].isspace() else start)
        if quote[-1] == "\n" and source[end - 1] != "\n" and (rest := _REST.match(source, end)):
            end = rest.end()
        elif quote[-1] in " \t":
            while source[end : end + 1] in (" ", "\t"):
                end += 1
        found.append(Passage(start, end, before, behind))
    # The indentation of a statement tells it from the same one in another place.
    exact = [place for place, indent in zip(found, indents) if indent == leading]
    return exact or [
        place for place, indent in zip(found, indents) if indent == -1 or indent >= leading
    ]
