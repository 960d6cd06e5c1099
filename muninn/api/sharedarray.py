"""`SharedArray`: one array of a bundle that numpy can not hold in place, because its
bytes are in VRAM, or because numpy alone does not have its type. Other libraries take
it by their protocols.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from muninn.api.protocols import Exposure, Protocols
from muninn.config.sizes import asText
from muninn.system import markup


class SharedArray(Protocols):
    """One array of an open bundle. Nothing is copied, and the memory is kept as long as
    this object, or an array that was taken from it.

    ``torch.from_dlpack(x)``, ``cupy.asarray(x)``, ``jax.dlpack.from_dlpack(x)`` and
    ``x.deviceArray()`` (Numba) are on the same bytes. ``numpy.asarray(x)`` is too for
    host memory, and a copy for VRAM.
    """

    __slots__ = ("_exposure",)

    def __init__(self, exposure: Exposure) -> None:
        self._exposure = exposure

    def _exposed(self) -> Exposure:
        return self._exposure

    @property
    def shape(self) -> tuple[int, ...]:
        return self._exposure.region.shape

    @property
    def ndim(self) -> int:
        return len(self._exposure.region.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """numpy's dtype. Raises `InvalidDtype` where numpy has none, or only by
        ml_dtypes, and that is not installed.
        """
        return self._exposure.region.element.dtype

    @property
    def nbytes(self) -> int:
        return self._exposure.region.sizeBytes

    @property
    def gpu(self) -> int | None:
        """The GPU in whose VRAM it is, by its index in this process, or None."""
        return self._exposure.memory.gpu

    def __repr__(self) -> str:
        where = "host memory" if self.gpu is None else f"GPU {self.gpu}"
        return f"<muninn.SharedArray {self._exposure.region.element}{list(self.shape)} in {where}>"

    def _repr_html_(self) -> str:
        facts = {
            "array": f"{self._exposure.region.element} {self.shape}",
            "size": asText(self.nbytes),
            "where": "host memory" if self.gpu is None else f"GPU {self.gpu}",
        }
        return markup.card("SharedArray", facts)
