"""What notebooks show: every kind of object has a table, no text of others is markup,
nothing is loaded from elsewhere, and nothing is of a colour that a page does not have.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.system import markup

HOSTILE = "<script src='//x'>&\"</script>"


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "2")


class Parsed(HTMLParser):
    """The elements, attributes and text of a piece of HTML. Each element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def checked(html: str) -> str:
    """The text of what a notebook shows, after a look at its elements."""
    parsed = Parsed(html)
    assert set(parsed.elements) <= {"table", "caption", "b", "tr", "th", "td", "progress", "pre"}
    assert {name for name, _ in parsed.attributes} <= {"style", "colspan", "value", "max"}
    for name, value in parsed.attributes:
        if name == "style":
            assert not re.search(r"url|(^|;)(color|background)", value or "")
    return parsed.text


def filled(shown: list[str]) -> Callable[[muninn.BundleDraft], None]:
    return lambda draft: shown.append(draft._repr_html_())


def ofABuffer() -> list[Any]:
    buffer = muninn.share(np.zeros((2, 3)), name=HOSTILE, access="readWrite", tenant=HOSTILE)
    copy = buffer.copyTo(1)
    started = buffer.startCopyTo(0)
    started.wait()
    with buffer.promote() as window:
        window.markDirty()
    return [buffer, copy.transfer, started, window]


def ofABundle() -> list[Any]:
    bundle = muninn.shareBundle({HOSTILE: np.zeros(3)}, name=HOSTILE)
    with muninn.followBundle(HOSTILE) as follower:
        shown = follower._repr_html_()
    array = muninn.loadBundle({HOSTILE: ((2,), "bfloat16")}, lambda draft: None)[HOSTILE]
    drafts: list[str] = []
    muninn.loadBundle({HOSTILE: (3, "f8")}, filled(drafts))
    assert all(HOSTILE in checked(each) for each in (shown, *drafts))
    return [bundle, array]


def ofTheRest() -> list[Any]:
    lock = muninn.Lock(HOSTILE)
    muninn.share(b"x", name=HOSTILE)
    return [lock, muninn.listBuffers(), muninn.domainInfo(), muninn.createStream(1)]


@pytest.mark.parametrize("made", [ofABuffer, ofABundle, ofTheRest])
def test_everyKindShowsItselfWithoutTrustingNames(made: Callable[[], list[Any]]) -> None:
    objects = made()
    shown = [checked(each._repr_html_()) for each in objects]
    assert HOSTILE in "".join(shown)
    names = ("MuninnBuffer", "Report", "Transfer", "Scratch", "Bundle", "SharedArray", "Lock")
    for each, text in zip(objects, shown, strict=True):
        kind = type(each).__name__
        assert kind not in names or text.startswith(kind), text


def test_showsWhatIsTrueOfEachKind() -> None:
    buffer = muninn.share(np.zeros(3 << 18, "f4"), name="a", access="readWrite")
    with buffer.promote(0, 1 << 20, 1) as window:
        text = checked(window._repr_html_())
        assert "0 to 1048576 (1M)" in text and "GPU 1" in text and "open" in text
    assert "closed" in checked(window._repr_html_())
    lock = muninn.Lock("l")
    assert "nobody" in checked(lock._repr_html_())
    with lock:
        assert f"({os.getpid()})" in checked(lock._repr_html_())
    transfer = buffer.startCopyTo(1)
    transfer.wait()
    text = checked(transfer._repr_html_())
    assert "host → GPU 1" in text and "3M of 3M" in text and "done" in text
    assert 'value="3145728" max="3145728"' in transfer._repr_html_()
    assert "GPU 1" in checked(muninn.createStream(1)._repr_html_())
    info = muninn.domainInfo()
    assert f"({os.getpid()}) broker" in checked(info._repr_html_())  # type: ignore[attr-defined]


def test_aLockSaysThatItsHolderDied(actor: Callable[..., Any]) -> None:
    holder = actor("lock = muninn.Lock('l'); lock.acquire()")
    lock = muninn.Lock("l")
    assert f"({holder.pid})" in lock._repr_html_()
    holder.kill()
    assert f"({holder.pid})" not in lock._repr_html_()
    with lock:
        assert "its last holder died" in checked(lock._repr_html_())


def test_whatIsClosedOrFreedSaysSo() -> None:
    buffer, bundle = muninn.share(b"x", name="a"), muninn.shareBundle({"k": np.zeros(3)}, name="b")
    follower = muninn.followBundle("b")
    muninn.free("a")
    muninn.free("b")
    assert "freed" in checked(buffer._repr_html_())
    assert "freed" in checked(bundle._repr_html_())
    assert "freed" in checked(follower._repr_html_())
    for each in (buffer, bundle, follower):
        each.close()
        assert "closed" in checked(each._repr_html_())


def test_aFollowerSaysThatThereIsANewerVersion() -> None:
    muninn.shareBundle({"k": np.zeros(3)}, name="b")
    with muninn.followBundle("b") as follower:
        assert "the newest" in checked(follower._repr_html_())
        muninn.publish("b", {"k": np.ones(3)})
        assert "has a newer one" in checked(follower._repr_html_())
        follower.newest()
        assert "the newest" in checked(follower._repr_html_())


def test_listsArePlainListsToOtherCode() -> None:
    muninn.share(b"x", name="a")
    buffers, info = muninn.listBuffers(), muninn.domainInfo()
    assert isinstance(buffers, list) and buffers == list(buffers)
    assert json.loads(json.dumps(info)) == dict(info)


def test_aLongTableSaysHowMuchIsLeftOut() -> None:
    bundle = muninn.shareBundle({f"k{number}": np.zeros(1) for number in range(33)})
    text = checked(bundle._repr_html_())
    assert "k19 " in text and "k20 " not in text and "… and 13 more" in text


def test_charactersThatShowNothingAreShownByTheirCodes() -> None:
    shown = markup.escaped("a\u202eb\x00c\nd\ud800e f")
    assert shown == r"a\u202eb\x00c\nd\ud800e f"
    assert shown.isprintable()


def test_aBarOfAnUnknownWholeClaimsNoPart() -> None:
    assert "value" not in markup.bar(3, 0, "x")
    assert 'value="2" max="2"' in markup.bar(3, 2, "x")
