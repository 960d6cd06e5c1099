"""The answers that other libraries get when they take a buffer that is open for
reading.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest

import muninn
from support import BOUND_SECONDS

WARNED = "^PyTorch has no read-only tensors"
#: A stand-in for PyTorch's `from_dlpack` where PyTorch is not installed: it passes on
#: the same arguments, and a function written in C may call it.
PYTORCH = """
def from_dlpack(value, *, device=None, copy=None):
    keywords = {} if copy is None else {"copy": copy}
    if device == "cpu":
        keywords["dl_device"] = (1, 0)
    return value.__dlpack__(max_version=(1, 0), **keywords)
"""


@pytest.fixture
def pyTorch() -> Any:
    functions: dict[str, Any] = {"__name__": "torch.utils.dlpack"}
    exec(PYTORCH, functions)
    return functions["from_dlpack"]


@pytest.mark.parametrize("mode", ["bigMode", "fastMode"])
def test_pyTorchIsWarnedOfMemoryThatItMayNotWrite(domain: str, pyTorch: Any, mode: str) -> None:
    """PyTorch has no read-only tensors. Broken: an in-place operation ended the process
    without a warning.
    """
    with (
        muninn.share(np.ones(3), name=mode, mode=mode),
        muninn.open(mode) as reading,
        muninn.open(mode, access="readWrite") as writing,
    ):
        with pytest.warns(
            UserWarning, match=WARNED + '.*muninn.open\\(name, access="readWrite"\\)'
        ) as warned:
            pyTorch(reading)
        assert [each.filename for each in warned] == [__file__], "where the program calls PyTorch"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pyTorch(writing)
            assert np.from_dlpack(reading).sum() == 3


def test_theFixOfWhatWasSharedForReadingIsACopy(domain: str, pyTorch: Any) -> None:
    """Or a private mapping, in host memory. Broken: the fix was to open the buffer for
    writing, which is refused.
    """
    for mode in ("bigMode", "fastMode"):
        with muninn.share(np.ones(3), name=mode, mode=mode, access="readOnly") as mine:  # type: ignore[arg-type]
            for reading in (mine, muninn.open(mode)):
                with pytest.warns(UserWarning, match=WARNED) as warned:
                    pyTorch(reading)
                said = str(warned[0].message)
                assert "readWrite" not in said and said.endswith("tensor.clone()")
                assert ('muninn.open(name, access="copyOnWrite")' in said) is (mode == "bigMode")


def test_aLineWarnsOnceForAllBuffers(domain: str, pyTorch: Any) -> None:
    """Broken: the text began with the buffer's name, so that each name warned again,
    and no filter of the command line matched.
    """
    for name in "abc":
        muninn.share(np.ones(3), name=name)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        for name in "abc":
            pyTorch(muninn.open(name))
    assert len(warned) == 1


def test_copiesAreNotWarnedOf(domain: str, pyTorch: Any) -> None:
    muninn.share(np.ones(3), name="a")
    with muninn.open("a") as reading:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pyTorch(reading, copy=True)
            pyTorch(reading, device="cuda")
            tensor = partial(pyTorch)  # a function of C has no frame; PyTorch's is one
            tensor(reading)
        for keywords in ({"copy": False}, {"device": "cpu"}):
            with pytest.warns(UserWarning, match=WARNED):
                pyTorch(reading, **keywords)


def test_pyTorchTakesABufferThatIsOpenForReading(domain: str, torch: Any) -> None:
    muninn.share(np.ones(3), name="a")
    with muninn.open("a") as reading:
        address = reading.array.__array_interface__["data"][0]
        for share in (
            torch.from_dlpack,
            torch.as_tensor,
            torch.asarray,
            torch.utils.dlpack.from_dlpack,
        ):
            with pytest.warns(UserWarning, match=WARNED) as warned:
                tensor = share(reading)
            assert tensor.data_ptr() == address and [each.filename for each in warned] == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            copies = [torch.tensor(reading), torch.from_dlpack(reading, copy=True)]
            copies += [copy(reading) for copy in (torch.tensor, torch.zeros(1).new_tensor)]
            copies.append(
                torch.tensor(
                    reading,
                    dtype=torch.float32,
                )
            )
        assert all(tensor.data_ptr() != address for tensor in copies)
        with pytest.warns(UserWarning, match=WARNED):
            torch.from_dlpack(reading).add(torch.tensor(1))


def test_aFilterOfTheCommandLineFindsTheWarning(domain: str) -> None:
    program = f"""
        import muninn
        library = {{"__name__": "torch"}}
        exec({PYTORCH!r}, library)
        library["from_dlpack"](muninn.open("a"))
    """
    muninn.share(np.ones(3), name="a")
    for action, said in (("default", True), ("ignore:PyTorch has no read-only tensors", False)):
        command = [sys.executable, "-W", action, "-c", textwrap.dedent(program)]
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=BOUND_SECONDS, check=True
        )
        assert ("in-place" in ran.stderr) is said


def test_aCapsuleThatCanNotSayItIsRefusedWithWhatHelps(domain: str) -> None:
    """Broken: the error was numpy's `Cannot export readonly array`, without a fix. JAX
    asks in this way.
    """
    muninn.share(np.ones(3), name="a")
    with muninn.open("a") as reading:
        with pytest.raises(
            BufferError,
            match=r"^'a' is open for reading.*Fix: muninn.open\(name, access=\"copyOnWrite\"\)",
        ):
            reading.__dlpack__(stream=None)
        assert "dltensor" in repr(reading.__dlpack__(copy=True))
    for mode, access, fix in (
        ("bigMode", "readOnly", 'muninn.open(name, access="copyOnWrite")'),
        ("fastMode", "readMostly", 'muninn.open(name, access="readWrite")'),
        ("fastMode", "readOnly", "Give it a copy"),
    ):
        muninn.share(np.ones(3), name=mode + access, mode=mode, access=access)  # type: ignore[arg-type]
        with (
            muninn.open(mode + access) as reading,
            pytest.raises(BufferError, match=re.escape(f"Fix: {fix}")),
        ):
            reading.__dlpack__()
    with muninn.open("a", access="readWrite") as writing:
        assert "dltensor" in repr(writing.__dlpack__())


def test_jaxReadsWhatIsOpenForWritingWithoutACopy(domain: str) -> None:
    numpyOfJax = pytest.importorskip("jax.numpy", reason="JAX is not installed: pip install jax")
    muninn.share(np.ones(1000, "f4"), name="a")
    with muninn.open("a") as reading, muninn.open("a", access="readWrite") as writing:
        with pytest.raises(BufferError, match="also where a library only reads, as JAX does"):
            numpyOfJax.from_dlpack(reading)
        taken = numpyOfJax.from_dlpack(writing)
        assert taken.unsafe_buffer_pointer() == writing.array.__array_interface__["data"][0]
        private = muninn.open("a", access="copyOnWrite")
        taken = numpyOfJax.from_dlpack(private)
        assert taken.unsafe_buffer_pointer() == private.array.__array_interface__["data"][0]
        assert numpyOfJax.asarray(reading).sum() == 1000
