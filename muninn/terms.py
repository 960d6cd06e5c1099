"""The words that users pass as strings, and the checks of the names that they choose.

The control block stores the position of a word in its tuple, so new words are only ever
appended.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Literal, TypeVar

from muninn.errors import InvalidArgument, MuninnError, UnsupportedMode

MAX_NAME_BYTES = 127
MAX_TENANT_BYTES = 63
#: The name of an internal row (a lock) begins with this. No name of a user does,
#: because control characters are refused.
INTERNAL_PREFIX = "\x01"
#: The name of the scratch memory of a promoted window begins with this.
WINDOW_PREFIX = INTERNAL_PREFIX * 2 + "window:"


class Mode(enum.StrEnum):
    """Where a buffer's bytes are."""

    BIG = "bigMode"
    FAST = "fastMode"


class Access(enum.StrEnum):
    """The rights of processes on a buffer. They also decide whether a promotion writes
    back.
    """

    READ_ONLY = "readOnly"
    READ_MOSTLY = "readMostly"
    READ_WRITE = "readWrite"
    #: Of one buffer object only: no buffer is shared so, and no row states it.
    COPY_ON_WRITE = "copyOnWrite"


class Lifetime(enum.StrEnum):
    """When a buffer is freed by itself: never, or with its last lease."""

    KEEP = "keep"
    LAST_CLOSE = "lastClose"


class Renew(enum.StrEnum):
    """How a lease is renewed: by the member's background thread while the buffer is
    open, or only by each use of the buffer.
    """

    AUTO = "auto"
    ON_USE = "onUse"


class Reserve(enum.StrEnum):
    """Whether a segment's pages are allocated when it is created, or at their first
    touch.
    """

    FULL = "full"
    LAZY = "lazy"


class Priority(enum.StrEnum):
    """Which promotions get room in VRAM first, from the last to the first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """Higher goes first."""
        return _RANKS[self]


#: The same words for type checkers, which do not accept a string where a member of an
#: enumeration is declared.
ModeWord = Literal["bigMode", "fastMode"]
AccessWord = Literal["readOnly", "readMostly", "readWrite"]
OpenAccessWord = Literal["readOnly", "readMostly", "readWrite", "copyOnWrite"]
LifetimeWord = Literal["keep", "lastClose"]
RenewWord = Literal["auto", "onUse"]
ReserveWord = Literal["full", "lazy"]
PriorityWord = Literal["low", "normal", "high"]

MODES = tuple(Mode)
#: The words with which a buffer is shared.
ACCESSES = (Access.READ_ONLY, Access.READ_MOSTLY, Access.READ_WRITE)
LIFETIMES = tuple(Lifetime)
#: Normal is the first, since the words of a new row are 0.
PRIORITIES = (Priority.NORMAL, Priority.LOW, Priority.HIGH)
_RANKS = {each: rank for rank, each in enumerate(Priority)}
#: How the bytes get from process to process.
TRANSPORTS = ("segment", "memfd", "vmm", "cudaIpc")


_Text = TypeVar("_Text", bound=str)
_Word = TypeVar("_Word", bound=enum.StrEnum)


def nearest(name: str, known: list[str]) -> str:
    """The known name that is most like `name`, without regard to capitals; "" if none
    is similar.
    """
    from difflib import get_close_matches

    meant = {each.lower(): each for each in known}
    return next((meant[found] for found in get_close_matches(name.lower(), meant, 1)), "")


def chosen(
    words: Mapping[str, _Text],
    what: str,
    value: object,
    error: type[MuninnError],
    caller: str,
    otherwise: str = "",
) -> _Text:
    """The word that a text names. `otherwise` is added to the fix: what else a user may do
    than to use one of the words.
    """
    if not isinstance(value, str):
        where = f"{caller}: " if caller else ""
        raise TypeError(f"{where}{what} must be a str, not {type(value).__name__}")
    word = words.get(value)
    if word is None:
        meant = nearest(str(value), list(words))
        where, hint = (
            f"{caller}: " if caller else "",
            f" (did you mean {meant!r}?)" if meant else "",
        )
        raise error(
            f"{where}{what} {value!r} is not known{hint}",
            f"Use {' or '.join(f'`{each}`' for each in words)}{otherwise}",
        )
    return word


def _byText(kind: type[_Word]) -> Mapping[str, _Word]:
    """The words of an enumeration by their texts. Looking a text up in the enumeration
    itself takes twice as long, and each open looks two words up.
    """
    return {word.value: word for word in kind}


_MODES, _OPEN_ACCESSES, _LIFETIMES = _byText(Mode), _byText(Access), _byText(Lifetime)
_ACCESSES = {word.value: word for word in ACCESSES}
_RENEWS, _RESERVES, _PRIORITIES = _byText(Renew), _byText(Reserve), _byText(Priority)


def asMode(value: object, caller: str = "") -> Mode:
    """`value` as a `Mode`, or `UnsupportedMode`. Its text names the function `caller`,
    which a user called; the errors of the functions below do the same.
    """
    return chosen(_MODES, "mode", value, UnsupportedMode, caller)


def asAccess(value: object, caller: str = "") -> Access:
    """`value` as an `Access` with which a buffer is shared, or `InvalidArgument`."""
    if isinstance(value, str) and value == Access.COPY_ON_WRITE:
        where = f"{caller}: " if caller else ""
        raise InvalidArgument(
            f"{where}access 'copyOnWrite' is how one process opens a buffer, and not how a "
            "buffer is shared",
            'Share it with another access, and then muninn.open(name, access="copyOnWrite")',
        )
    return chosen(_ACCESSES, "access", value, InvalidArgument, caller)


def asOpenAccess(value: object, caller: str = "") -> Access:
    """`value` as an `Access` with which a buffer is opened, or `InvalidArgument`."""
    return chosen(_OPEN_ACCESSES, "access", value, InvalidArgument, caller)


def asLifetime(value: object, caller: str = "") -> Lifetime:
    """`value` as a `Lifetime`, or `InvalidArgument`."""
    return chosen(_LIFETIMES, "lifetime", value, InvalidArgument, caller)


def asRenew(value: object, caller: str = "") -> Renew:
    """`value` as a `Renew`, or `InvalidArgument`."""
    return chosen(_RENEWS, "renew", value, InvalidArgument, caller)


def asReserve(value: object, caller: str = "") -> Reserve:
    """`value` as a `Reserve`, or `InvalidArgument`."""
    return chosen(_RESERVES, "reserve", value, InvalidArgument, caller)


def asPriority(value: object, caller: str = "") -> Priority:
    """`value` as a `Priority`, or `InvalidArgument`."""
    return chosen(_PRIORITIES, "priority", value, InvalidArgument, caller)


def asName(value: object) -> str:
    """A buffer's name: 1 to 127 bytes of UTF-8 without control characters; anything
    else is `InvalidArgument`.
    """
    return _text("name", value, MAX_NAME_BYTES)


def asTenant(value: object) -> str:
    """A tenant's name: 1 to 63 bytes of UTF-8 without control characters; anything else
    is `InvalidArgument`.
    """
    return _text("tenant", value, MAX_TENANT_BYTES)


#: The characters that join letters, or keep them apart, in Persian, Indic scripts and
#: emoji. Python calls them control characters.
_JOINERS = dict.fromkeys((0x200C, 0x200D), "x")


def _text(what: str, value: object, maxBytes: int) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} {value!r} is not valid Unicode") from None
    if not 0 < length <= maxBytes:
        raise InvalidArgument(f"{what} has {length} bytes", f"Use 1 to {maxBytes} bytes of UTF-8")
    if not value.isprintable() and not value.translate(_JOINERS).isprintable():
        raise InvalidArgument(
            f"{what} {value!r} has control characters", "Use printable characters"
        )
    return value
