"""PyTorch's tensors: their values are shared whatever wraps them, and a tensor whose
values are not in one array is refused by the names of its parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.errors import DeviceUnavailable, InvalidArgument, InvalidDtype
from support import leftovers


@pytest.mark.parametrize("isBundle", [False, True])
def test_theValuesOfATensorAreShared(domain: str, torch: Any, isBundle: bool) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    signal = torch.tensor([1 + 2j, 3 - 1j])
    tensors = {
        "parameter": torch.nn.Parameter(weight),
        "withGradient": (weight * 2).requires_grad_(),
        "ofAGraph": torch.nn.Parameter(weight) * 3,
        "transposed": weight.t(),
        "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 5),
        "sliced": torch.arange(24.0).reshape(4, 6)[1::2, ::3],
        "conjugate": signal.conj(),
        "negated": signal.conj().imag,
        "noDimensions": torch.tensor(7),
        "channelsLast": torch.rand(1, 3, 4, 5).to(memory_format=torch.channels_last),
        "inference": _inInferenceMode(torch, weight),
        "bfloat16": weight.to(torch.bfloat16).t(),
    }
    shared = (
        muninn.shareBundle(tensors, "w", access="readWrite")
        if isBundle
        else {key: muninn.share(tensor, key, access="readWrite") for key, tensor in tensors.items()}
    )
    for key, tensor in tensors.items():
        back = torch.from_dlpack(shared[key])
        assert torch.equal(back, tensor.detach()), key
        assert back.dtype == tensor.dtype and back.is_contiguous(), key


def _inInferenceMode(torch: Any, weight: Any) -> Any:
    with torch.inference_mode():
        return weight + 1


def _wrapped(torch: Any) -> Any:
    class Wrapped(torch.Tensor):  # type: ignore[misc]
        @staticmethod
        def __new__(cls: Any, scaled: Any, scale: Any) -> Any:
            return torch.Tensor._make_wrapper_subclass(cls, scaled.shape, dtype=scale.dtype)

        def __init__(self, scaled: Any, scale: Any) -> None:
            self.scaled, self.scale = scaled, scale

        @classmethod
        def __torch_dispatch__(cls: Any, *_: Any) -> Any:
            raise NotImplementedError

        def __tensor_flatten__(self) -> Any:
            return ["scaled", "scale"], None

    return Wrapped(torch.zeros(3, dtype=torch.int8), torch.ones(1))


_REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "sparse": (
        lambda torch: torch.eye(3).to_sparse(),
        "tensor.coalesce().indices(), tensor.coalesce().values()",
    ),
    "csr": (
        lambda torch: torch.eye(3).to_sparse_csr(),
        "tensor.crow_indices(), tensor.col_indices(), tensor.values()",
    ),
    "csc": (
        lambda torch: torch.eye(3).to_sparse_csc(),
        "tensor.ccol_indices(), tensor.row_indices(), tensor.values()",
    ),
    "quantized": (
        lambda torch: torch.quantize_per_tensor(torch.ones(3), 0.5, 0, torch.qint8),
        "tensor.int_repr(), tensor.q_scale(), tensor.q_zero_point()",
    ),
    "quantizedByChannel": (
        lambda torch: torch.quantize_per_channel(
            torch.ones(2, 3), torch.ones(2), torch.zeros(2), 0, torch.qint8
        ),
        "tensor.int_repr(), tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()",
    ),
    "nested": (
        lambda torch: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "tensor.unbind()",
    ),
    "jagged": (
        lambda torch: torch.nested.nested_tensor(
            [torch.ones(2), torch.ones(3)], layout=torch.jagged
        ),
        "tensor.values(), tensor.offsets()",
    ),
    "wrapped": (_wrapped, "tensor.scaled, tensor.scale"),
    "meta": (lambda torch: torch.ones(3, device="meta"), "Load it on the CPU"),
}


@pytest.mark.filterwarnings("ignore")  # PyTorch's: sparse and nested tensors are in beta
@pytest.mark.parametrize("kind", _REFUSED)
def test_aTensorInPartsIsRefusedByTheirNames(domain: str, torch: Any, kind: str) -> None:
    make, parts = _REFUSED[kind]
    tensor = make(torch)
    for share in (
        lambda: muninn.share(tensor, "x"),
        lambda: muninn.shareBundle({"x": tensor}, "b"),
        lambda: muninn.shareOnce("x", lambda: tensor),
    ):
        with pytest.raises(InvalidArgument, match=re.escape(parts)):
            share()
    assert muninn.listBuffers() == [] and leftovers(domain) == []


@pytest.mark.parametrize("name", ["int4", "uint7", "bits8"])
def test_aTypeThatOnlyTorchHasIsRefused(domain: str, torch: Any, name: str) -> None:
    """DLPack calls it int8, so its type would be lost without a word."""
    with pytest.raises(InvalidDtype, match=rf"torch\.{name}.*view\(torch\.uint8\)"):
        muninn.share(torch.empty(3, dtype=getattr(torch, name)))


def test_whatIsNoTensorIsLeftAlone(domain: str, torch: Any) -> None:
    class LikeATensor:
        layout = torch.sparse_coo
        __array_interface__ = np.arange(3).__array_interface__

    assert muninn.share(LikeATensor()).shape == (3,)


@pytest.mark.parametrize("share", [muninn.share, lambda tensor: muninn.shareBundle({"a": tensor})])
def test_aTensorThatIsNotOnTheCpuIsNotTakenForHostMemory(
    domain: str, torch: Any, share: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one of a device that is none of CUDA's, whose address means nothing here."""

    class Far(torch.Tensor):  # type: ignore[name-defined,misc]
        is_cpu = False  # pylint: disable=invalid-name

        def __dlpack_device__(self) -> tuple[int, int]:
            return 14, 0  # oneAPI

    monkeypatch.setenv("MUNINN_DEVICE", "host")
    with pytest.raises(DeviceUnavailable, match="on a GPU is not the host back-end's"):
        share(torch.ones(3).as_subclass(Far))
