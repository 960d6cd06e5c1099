"""Following: the newest version of a bundle, for a program that uses it again and again."""

from __future__ import annotations

from functools import partial

from muninn.api.bundle import Bundle
from muninn.api.notebooks import bundleHtml, shownOr
from muninn.api.opening import openAny
from muninn.api.upcoming import Upcoming
from muninn.errors import BufferFreed
from muninn.observe.calls import named
from muninn.system.closable import Closable
from muninn.terms import OpenAccessWord, asName


class BundleFollower(Closable):
    """The newest version of a bundle. `followBundle` makes one."""

    def __init__(
        self,
        name: str,
        access: OpenAccessWord,
        timeout: float | None,
        ahead: bool,
        tenant: str | None,
    ) -> None:
        self._name = asName(name)
        self._open = partial(_opened, self._name, access, tenant=tenant)
        self._bundle = self._open(timeout)
        self._upcoming = Upcoming(self._bundle, self._open, _asItIs) if ahead else None
        self._isClosed = False

    def newest(self) -> Bundle:
        """The newest version, open. Keep it for as long as its arrays belong together:
        the next call may answer with a newer one. The one before is let go when nothing
        of the program refers to it.

        Called by any thread.

        Raises
        ------
        BufferNotFound
            The name was freed, and nothing was published since.
        BufferFreed
            This object is closed.
        """
        bundle = self._bundle
        if not bundle.isCurrent or bundle.buffer._isInherited:
            # Another thread may change over too: each answers with what it has found.
            self._bundle = bundle = self._newer(bundle)
            if self._isClosed:
                bundle.close()
                raise BufferFreed(f"this follower of {self._name!r} is closed")
        return bundle

    def _newer(self, bundle: Bundle) -> Bundle:
        """The version to change over to from one that is not current, or not open here."""
        upcoming, buffer = self._upcoming, bundle.buffer
        if upcoming is None or upcoming.hasFailed or buffer.isClosed or buffer._isInherited:
            newest = self._open()
            if upcoming is not None:
                upcoming.forget()
            return newest
        prepared = upcoming.ready()
        return bundle if prepared is None else prepared.bundle

    def close(self) -> None:
        """Close the newest version, and follow no longer."""
        self._upcoming, self._isClosed = None, True
        self._bundle.close()

    def __repr__(self) -> str:
        return f"<muninn.BundleFollower {self._name!r}{' closed' if self._isClosed else ''}>"

    def _repr_html_(self) -> str:
        return shownOr("BundleFollower", self._shown)

    def _shown(self) -> str:
        """The version that was given last. To show it takes no newer one."""
        bundle = self._bundle
        version = "the newest" if bundle.isCurrent else "newest() has a newer one"
        ahead = "on a thread, ahead" if self._upcoming is not None else "by newest()"
        return bundleHtml(
            "BundleFollower",
            bundle.buffer.describe(),
            bundle._entries,
            {"version": version, "opened": ahead},
        )


def _opened(
    name: str, access: OpenAccessWord, timeout: float | None = None, *, tenant: str | None
) -> Bundle:
    return Bundle(openAny(name, access, timeout, tenant=tenant, caller="followBundle"))


def _asItIs(bundle: Bundle) -> None:
    """A program needs nothing but the open bundle."""


@named
def followBundle(
    name: str,
    access: OpenAccessWord = "readOnly",
    timeout: float | None = None,
    *,
    ahead: bool = False,
    tenant: str | None = None,
) -> BundleFollower:
    """Open a bundle, and newer versions of it as they are published.

    Parameters
    ----------
    name, access, timeout, tenant
        As in `openBundle`.
    ahead
        Whether a thread of this process opens newer versions. `newest` then does not wait
        for an opening: it answers with the version before until the newer one is open,
        milliseconds after its publication. It opens the version itself where the thread
        could not, and at first in a forked child. Without `ahead`, `newest` opens it, and
        what was published before the call is what it answers with.

    Returns
    -------
    BundleFollower
        Its method `newest` gives the bundle.

    Raises
    ------
    BufferNotFound, BufferMismatch, PermissionDenied
        As from `openBundle`.
    """
    return BundleFollower(name, access, timeout, ahead, tenant)
