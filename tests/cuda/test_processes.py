"""Forks, spawned processes, threads and several contexts."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable

import numpy as np
import pytest

import muninn
from support import Actor, program

Start = Callable[..., Actor]


def run(code: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.parametrize("who", ["muninn", "numba"])
def test_aForkAfterCudaIsANamedError(domain: str, who: str) -> None:
    begin = {"muninn": "b.read()", "numba": "from numba import cuda; cuda.to_device(np.arange(3))"}[
        who
    ]
    mode = {"muninn": "fastMode", "numba": "bigMode"}[who]
    printed = run(program("forkAfterCuda", MODE=repr(mode), BEGIN=begin))
    first, second, mine = printed.splitlines()
    assert first == second == 'MNN-0030 ForkedAfterCuda Start processes by "spawn" or "forkserver"'
    assert mine == "45", "the parent goes on"


def test_aForkBeforeCudaIsFine(domain: str) -> None:
    code = """
        import os, numpy as np, muninn
        b = muninn.share(np.arange(10), "a")
        if (pid := os.fork()) == 0:
            v = muninn.share(np.arange(10), "v", mode="fastMode"); os._exit(int(v.read().sum()))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert run(code) == "45"


def test_hostMemoryIsUsableInAForkedChild(domain: str) -> None:
    code = """
        import os, numpy as np, muninn
        b = muninn.share(np.arange(10), "a"); v = muninn.share(np.arange(3), mode="fastMode"); b.open()
        if (pid := os.fork()) == 0:
            os._exit(int(b.read().sum()) + int(muninn.open("a").array.sum()))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert run(code) == "90"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_pickledBuffersArriveInSpawnedProcesses(domain: str, method: str, tmp_path: object) -> None:
    (tmp_path / "work.py").write_text(  # type: ignore[operator]
        textwrap.dedent("""
            import multiprocessing, sys, numpy as np, muninn
            def total(buffer): return int(buffer.read().sum()), buffer.mode
            if __name__ == "__main__":
                buffers = [muninn.share(np.arange(100), mode=mode) for mode in ("fastMode", "bigMode")]
                buffers[1].open()
                with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
                    print(pool.map(total, buffers))
        """)
    )
    ran = subprocess.run(
        [sys.executable, str(tmp_path / "work.py"), method],  # type: ignore[operator]
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[(4950, 'fastMode'), (4950, 'bigMode')]"


def test_threadsOpenAndCloseAtOnce(domain: str, actor: Start) -> None:
    muninn.share(np.arange(1000), "a", mode="fastMode")
    many = actor(program("threadsOpenAndClose"))
    assert many.do("failures, [t.is_alive() for t in threads]") == [[], [False] * 8]


def test_aContextOfTheCallersOwnStaysCurrent(domain: str, actor: Start) -> None:
    """A program has a context of its own, beside the primary one that Muninn and Numba
    use.
    """
    other = actor("""
from cuda.bindings import driver as cu
from muninn.session import gpus, membership
cu.cuInit(0)
own = cu.cuCtxCreate(None, 0, 0)[1] if cu.cuDriverGetVersion()[1] >= 13000 else cu.cuCtxCreate(0, 0)[1]
b = muninn.share(np.arange(100), "a", mode="fastMode")
current = int(cu.cuCtxGetCurrent()[1])
""")
    assert other.do("current == int(own) == int(cu.cuCtxGetCurrent()[1])")
    # A stream of that context waits and signals like any other.
    other.do("s = cu.cuStreamCreate(1)[1]; t = b.signal(s); b.wait(s, t)")
    assert other.do("int(cu.cuStreamSynchronize(s)[0]), b.wait(None, t)") == [0, 1]
    assert other.do(
        "out = np.zeros(100, int); int(cu.cuMemcpyDtoH(out.ctypes.data, b.open(), out.nbytes)[0]), int(out.sum())"
    ) == [0, 4950]


def test_theDefaultStreamIsThatOfTheCurrentContext(domain: str, actor: Start) -> None:
    """Broken: 0 meant the primary context's default stream, even if the program's
    kernels ran in another context.
    """
    other = actor("""
import ctypes
from cuda.bindings import driver as cu
from muninn.session import gpus, membership
b = muninn.share(np.zeros(4096, np.uint8), "a", mode="fastMode"); p = b.open(); d = gpus.deviceOf(membership.current())
ones, host = d.allocate(0, 4096), np.ones(4096, np.uint8); d.copyNow(ones.address, host.ctypes.data, 4096, 0)
own = cu.cuCtxCreate(None, 0, 0)[1] if cu.cuDriverGetVersion()[1] >= 13000 else cu.cuCtxCreate(0, 0)[1]
at = int(cu.cuMemHostAlloc(8, 3)[1]); word = ctypes.c_uint64.from_address(at); word.value = 0
with b.write(stream=0): cu.cuStreamWaitValue64(0, at, 1, 0); cu.cuMemcpyAsync(p, ones.address, 4096, 0)
""")
    other.do("import threading; threading.Timer(0.3, setattr, (word, 'value', 1)).start()")
    assert other.do("int(b.read(timeout=60).sum())") == 4096


def test_memoryStaysForTheKernelsOfAnyContextThatGotIt(domain: str, actor: Start) -> None:
    """Broken: the free waited for the primary context only, and unmapped the memory
    while the other context used it.
    """
    other = actor("""
import ctypes, gc, threading
from cuda.bindings import driver as cu
from muninn.session import gpus, membership
muninn.domainInfo(); d = gpus.deviceOf(membership.current()); ones = d.allocate(0, 4096)
own = cu.cuCtxCreate(None, 0, 0)[1] if cu.cuDriverGetVersion()[1] >= 13000 else cu.cuCtxCreate(0, 0)[1]
b = muninn.share(np.zeros(4096, np.uint8), "a", mode="fastMode"); p = b.open(); s = int(cu.cuStreamCreate(1)[1])
at = int(cu.cuMemHostAlloc(8, 3)[1]); word = ctypes.c_uint64.from_address(at); word.value = 0
cu.cuStreamWaitValue64(s, at, 1, 0); cu.cuMemcpyAsync(p, ones.address, 4096, s)
b.free(); del b; gc.collect(); time.sleep(0.3); word.value = 1
""")
    assert other.do("cu.cuStreamSynchronize(s)[0].name") == "CUDA_SUCCESS"


def test_aContextThatIsDestroyedTakesNothingOfOursAlong(domain: str, actor: Start) -> None:
    """Broken: the words at which streams wait for the host were memory of the first
    context; a page was freed in the destroyed one.
    """
    other = actor("""
import gc
from cuda.bindings import driver as cu
from muninn.session import gpus, membership
b = muninn.share(np.zeros(4096, np.uint8), "a", mode="fastMode"); d = gpus.deviceOf(membership.current())
own = cu.cuCtxCreate(None, 0, 0)[1] if cu.cuDriverGetVersion()[1] >= 13000 else cu.cuCtxCreate(0, 0)[1]
s = int(cu.cuStreamCreate(1)[1]); b.wait(s, b.signal(s)); cu.cuStreamSynchronize(s); mine = d.createStream(0)
assert d.awaitWork(60)  # in that context too
cu.cuStreamDestroy(s); cu.cuCtxDestroy(own)
""")
    other.do("mine.submit(lambda: None); mine.synchronize(30)")
    other.do(
        "b.free(); del b; gc.collect(); c = muninn.share(np.ones(4096, np.uint8), 'c', mode='fastMode')"
    )
    assert other.do("d.awaitWork(60), int(c.read().sum())") == [True, 4096]
