"""Hints: the fixes of errors, which are written for programs, in the words of the command
line.
"""

from __future__ import annotations

import re

#: Arguments of Python's functions, and the options that are the same.
OPTIONS = {
    "access": "--access",
    "lifetimeMs": "--lifetime-ms",
    "mode": "--mode",
    "preferredGpu": "--gpu",
    "reserve": "--reserve",
    "route": "--route",
    "targetGpu": "--target-gpu",
    "tenant": "--tenant",
}
#: Phrases about what only programs can do.
_PHRASES = {
    '; renew sooner, or use renew="auto"': "",
    "Use `copyTo` or `open(targetGpu=)` without `route`": (
        "Use `open --target-gpu` without `--route`"
    ),
    "; with track=True a window that may be written takes half": "",
    "muninn.open(name, access=": "open it with (access=",
}
_GIVEN = re.compile(rf'\(?`?\b({"|".join(OPTIONS)})="?([A-Za-z0-9_/-]+)?"?`?\)?')
#: An argument without a value: a word of Python, or one that the fix says to leave out.
_BARE = re.compile(r"(?<![`\w-])(lifetimeMs|preferredGpu|targetGpu)\b|(?<=Leave )(route|mode)\b")


def inWords(fix: str) -> str:
    """The fix as a user of the command line needs it."""
    for phrase, said in _PHRASES.items():
        fix = fix.replace(phrase, said)
    fix = _GIVEN.sub(lambda match: f"`{' '.join(filter(None, _option(match)))}`", fix)
    return _BARE.sub(lambda match: f"`{OPTIONS[match[1] or match[2]]}`", fix)


def _option(match: re.Match[str]) -> tuple[str, str | None]:
    return OPTIONS[match[1]], match[2]
