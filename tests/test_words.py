"""The words of arrays with strides, and what `packElements` makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from muninn.errors import InvalidArgument
from muninn.kernels import launch
from muninn.kernels.words import MAX_AXES, tileOrder, wordLayout

ITEM_BYTES = (1, 2, 3, 4, 8, 12, 16, 24, 100)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """An array with any strides, also such as overlap its own elements."""
    itemBytes = draw(st.sampled_from(ITEM_BYTES))
    shape = draw(st.lists(st.integers(1, 4), max_size=6))
    unit = draw(st.sampled_from((1, 2, 4, itemBytes)))
    strides = [draw(st.integers(-9, 9)) * unit for _ in shape]
    if draw(st.booleans()):  # the axes of an array in C order, some of them turned around
        order = draw(st.permutations(range(len(shape))))
        step = itemBytes
        for axis in order:
            strides[axis] = step * draw(st.sampled_from((1, 1, -1)))
            step *= shape[axis]
    reaches = [(length - 1) * stride for length, stride in zip(shape, strides, strict=True)]
    low = -sum(reach for reach in reaches if reach < 0)
    high = sum(reach for reach in reaches if reach > 0) + itemBytes
    offset = draw(st.integers(0, 9))
    memory = np.random.default_rng(1).integers(0, 256, offset + low + high, np.uint8)
    first = memory[offset + low :][:itemBytes].view(f"V{itemBytes}")
    return as_strided(first, tuple(shape), tuple(strides))


def wordsOf(array: np.ndarray[Any, Any]) -> tuple[Any, np.ndarray[Any, Any]]:
    """(the layout of an array's words, the words from the lowest one)."""
    interface = array.__array_interface__
    layout = wordLayout(interface["data"][0], array.shape, array.strides, array.itemsize)

    class Span:
        __array_interface__ = {
            "version": 3,
            "typestr": layout.dtype.str,
            "shape": (layout.span,),
            "data": (layout.lowest, True),
        }
        keepAlive = array

    return layout, np.asarray(Span())


@given(arrays(), st.integers(0, 1 << 20))
def test_theWordsArePackedInCOrder(array: np.ndarray[Any, Any], cut: int) -> None:
    layout, source = wordsOf(array)
    assert layout.total * layout.dtype.itemsize == array.size * array.itemsize
    packed = np.zeros(layout.total, layout.dtype)
    cut %= layout.total
    for begin, part in ((0, packed[:cut]), (cut, packed[cut:])):
        launch.launch(
            "packElements", part, source, begin, layout.first, layout.lengths, layout.strides
        )
    assert packed.tobytes() == np.ascontiguousarray(array).tobytes()


@given(
    st.tuples(st.integers(14, 40), st.integers(1, 3), st.integers(14, 40)),
    st.permutations((0, 1, 2)),
    st.tuples(*[st.sampled_from((1, -1))] * 3),
    st.sampled_from((1, 2, 4, 8)),
)
def test_tilesMakeTheSameCopy(
    shape: tuple[int, ...], order: list[int], turns: tuple[int, ...], itemBytes: int
) -> None:
    memory = np.random.default_rng(2).integers(0, 256, (*shape, itemBytes), np.uint8)
    array = memory.view(f"V{itemBytes}")[..., 0][tuple(slice(None, None, turn) for turn in turns)]
    array = array.transpose(order)
    layout, source = wordsOf(array)
    tiles = tileOrder(layout)
    event("by tiles" if tiles else "not by tiles")
    if tiles is not None:
        packed = np.zeros(layout.total, layout.dtype)
        launch.launch("packTransposed", packed, source, layout.first, *tiles)
        assert packed.tobytes() == np.ascontiguousarray(array).tobytes()


def test_tilesAreForWordsThatAreNearestAlongAnotherAxis() -> None:
    def isTiled(array: np.ndarray[Any, Any]) -> bool:
        return tileOrder(wordsOf(array)[0]) is not None

    matrix, cube = np.zeros((40, 48), np.float32), np.zeros((16, 3, 16), np.float16)
    assert isTiled(matrix.T) and isTiled(matrix[::-1, ::-1].T) and isTiled(cube.transpose(2, 1, 0))
    assert isTiled(np.broadcast_to(matrix.T, (3, 48, 40)))
    assert tileOrder(wordsOf(cube.transpose(2, 1, 0))[0]) == (
        (1, 1, 1, 1, 1, 1, 3, 16, 16),
        (0, 0, 0, 0, 0, 0, 16, 1, 48),
        (48, 48, 48, 48, 48, 48, 16, 48, 1),
    )
    for array, why in (
        (matrix[:, 1:9], "the rows have no gaps"),
        (matrix[:, ::2], "nearest along the innermost axis"),
        (matrix[:15].T, "15 columns"),
        (matrix[:, :15].T, "15 rows"),
        (matrix[:, ::8].T, "a word in 32 bytes"),
        (np.broadcast_to(matrix[:, :1], (40, 48)), "each word is read 48 times"),
        (matrix.astype(np.complex128).T, "an element has two words"),
    ):
        assert not isTiled(array), why


@given(arrays())
def test_noWordIsOutsideOfTheSpan(array: np.ndarray[Any, Any]) -> None:
    layout, _ = wordsOf(array)
    reaches = [
        (length - 1) * stride for length, stride in zip(layout.lengths, layout.strides, strict=True)
    ]
    assert layout.first + sum(reach for reach in reaches if reach < 0) == 0
    assert layout.first + sum(reach for reach in reaches if reach > 0) == layout.span - 1
    assert len(layout.lengths) == len(layout.strides) == MAX_AXES


def axesOf(array: np.ndarray[Any, Any]) -> tuple[int, list[tuple[int, int]]]:
    """(bytes of a word, the axes that are there)."""
    layout, _ = wordsOf(array)
    axes = zip(layout.lengths, layout.strides, strict=True)
    return layout.dtype.itemsize, [axis for axis in axes if axis[0] > 1]


def test_theWordsAreAsWideAsTheStridesAllow() -> None:
    matrix = np.zeros((6, 8, 16), np.float32)
    assert axesOf(matrix.T) == (4, [(16, 1), (8, 16), (6, 128)])
    assert axesOf(matrix.astype(np.complex128).T)[0] == 8
    assert axesOf(matrix.astype(np.float16)[:, :, :8]) == (8, [(48, 4), (2, 1)])
    assert axesOf(matrix[:, :, 1:4]) == (4, [(48, 16), (3, 1)])
    assert axesOf(as_strided(np.zeros(64, np.float32), (4, 5), (7, 12)))[0] == 1


def test_axesThatFollowEachOtherAreOne() -> None:
    cube = np.zeros((4, 5, 6, 7), np.float64)
    assert axesOf(cube) == (8, [(840, 1)])
    assert axesOf(cube[::-1]) == (8, [(4, -210), (210, 1)])
    assert axesOf(cube[:, :, :, ::2]) == (8, [(120, 7), (4, 2)])
    assert axesOf(np.broadcast_to(np.float64(3), (4, 5, 6))) == (8, [(120, 0)])


def test_moreAxesThanTheKernelTakesAreRefused() -> None:
    memory = np.zeros(1 << 12, np.uint8)
    for count, itemBytes in ((8, 16), (8, 1), (9, 1), (9, 16)):
        strides = tuple(3 + 5 * axis for axis in range(count))
        array = as_strided(memory.view(f"V{itemBytes}"), (2,) * count, strides)
        if count == 8:
            assert len(axesOf(array)[1]) == count + (itemBytes > 1)
            continue
        with pytest.raises(InvalidArgument, match="has 9 axes.* 8 is the most"):
            axesOf(array)


def test_lengthsOfAnotherNumberOfAxesAreRefused() -> None:
    words = np.zeros(4, np.uint64)
    ones = (1,) * MAX_AXES
    for lengths, strides in (((4,), (1,)), (ones, (1,) * 3)):
        with pytest.raises(InvalidArgument, match="of 9 axes, not of"):
            launch.launch("packElements", words, words, 0, 0, lengths, strides)
    with pytest.raises(InvalidArgument, match="of 9 axes, not of 2"):
        launch.launch("packTransposed", words, words, 0, ones, ones, (1, 1))
