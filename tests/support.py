"""Helpers of multi-process tests: actors, a domain per test, and waits with a bound."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from spawning import Forked, Zygote

ACTOR = Path(__file__).with_name("actor.py")
PROGRAMS = Path(__file__).with_name("programs")
#: Above anything that a sound run needs on a busy machine, so reaching it means a hang.
BOUND_SECONDS = 60.0


def program(name: str, **texts: str) -> str:
    """A program of `tests/programs`, as an actor or ``python -c`` runs it. If a word in
    capitals in the program is also an argument, the argument's text replaces it.
    """
    code = (PROGRAMS / f"{name}.py").read_text()
    for placeholder, text in texts.items():
        word = re.compile(rf"\b{placeholder}\b")
        assert word.search(code), f"{name} has no {placeholder}"
        lines = []
        for line in code.split("\n"):
            # The lines of a text stand where its name stands.
            indented = text.replace("\n", "\n" + line[: len(line) - len(line.lstrip())])
            lines.append(word.sub(indented.replace("\\", r"\\"), line))
        code = "\n".join(lines)
    return code


class ActorError(AssertionError):
    """The code of an actor raised; `kind` is the class's name."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class Actor:
    """Another, unrelated Python process in the test's domain.

    Parameters
    ----------
    code
        Run first; ``import muninn`` and numpy as np are done already.
    launcher
        A program and its arguments that start the process; the actor's own command line
        is added to them.
    environment
        Variables in addition to those of the test.
    """

    def __init__(self, code: str = "", launcher: tuple[str, ...] = (), **environment: str) -> None:
        theirInput, ourOutput = os.pipe()
        ourInput, theirOutput = os.pipe()
        # Each command and each answer is a line.
        self._commands = os.fdopen(ourOutput, "w", buffering=1)
        self._answers = os.fdopen(ourInput)
        try:
            self._process = self._started(
                launcher, {**os.environ, **environment}, theirInput, theirOutput
            )
        finally:
            os.close(theirInput)
            os.close(theirOutput)
        self.pid = self._process.pid
        self.do("import os, time, muninn, numpy as np\n" + code)

    @staticmethod
    def _started(
        launcher: tuple[str, ...], environment: dict[str, str], stdin: int, stdout: int
    ) -> Forked | subprocess.Popen[bytes]:
        zygote = Zygote.current()
        if not launcher and zygote.suits(environment):
            stderr = 2  # pytest directs it anew for each test
            return zygote.fork("actor", (), environment, (stdin, stdout, stderr))
        return subprocess.Popen(
            [*launcher, sys.executable, "-u", str(ACTOR)],
            stdin=stdin,
            stdout=stdout,
            env=environment,
        )

    def begin(self, code: str) -> None:
        """Send code without waiting for it; `result` waits."""
        self._commands.write(json.dumps(code) + "\n")

    def result(self, bound: float = BOUND_SECONDS) -> Any:
        """The value of the code that `begin` sent last. Raises `ActorError` when the
        code raised, and fails the test when it hangs.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            if not selector.select(bound):
                os.kill(self.pid, signal.SIGRTMIN + 5)  # it prints its stacks
                time.sleep(0.5)
                self.kill()
                raise AssertionError(f"actor {self.pid} gave no answer within {bound} s")
        line = self._answers.readline()
        assert line, f"actor {self.pid} ended with status {self._process.wait(5)}"
        answer = json.loads(line)
        if "error" in answer:
            raise ActorError(answer["error"], answer["message"])
        return answer["value"]

    def do(self, code: str, bound: float = BOUND_SECONDS) -> Any:
        """Run code in the process and return the value of its last expression."""
        self.begin(code)
        return self.result(bound)

    def isBusy(self) -> bool:
        """Whether the code that `begin` sent still runs."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            return not selector.select(0)

    def join(self) -> Actor:
        """Become a member."""
        self.do("muninn.domainInfo()['epoch']")
        return self

    def stop(self) -> None:
        """Send SIGSTOP, and wait until no thread runs any more: each thread stops when
        it next enters the kernel.
        """
        os.kill(self.pid, signal.SIGSTOP)
        eventually(
            lambda: set(self._threadStates()) == {"T"}, f"all threads of {self.pid} have stopped"
        )

    def _threadStates(self) -> Iterator[str]:
        for stat in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
                yield stat.read_text().rpartition(")")[2].split()[0]

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def tellStacks(self) -> None:
        """Have the stacks of all its threads written to the test's stderr."""
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGRTMIN + 5)
            time.sleep(0.1)

    @contextlib.contextmanager
    def interpreterHeld(self) -> Iterator[None]:
        """Have the process be inside C code that keeps the interpreter's lock: none of
        its Python runs meanwhile.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "held")
            os.mkfifo(path)
            self.begin(program("holdinterpreter", PATH=repr(path.encode())))
            writing = eventually(lambda: _writingEnd(path), f"{self.pid} holds its interpreter")
            try:
                yield
            finally:
                os.close(writing)
            self.result()

    def kill(self) -> None:
        """Send SIGKILL, and wait until the kernel has ended the process. Harmless when
        the process is dead already.
        """
        self._process.kill()
        self._process.wait(BOUND_SECONDS)
        self._close()

    def leave(self) -> int:
        """Let the process end by itself; returns the exit status."""
        self._commands.close()
        status = self._process.wait(BOUND_SECONDS)
        self._close()
        return status

    def _close(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died before it read a command
            self._commands.close()
        self._answers.close()


def _writingEnd(path: str) -> int | None:
    """The writing end of a FIFO; None while no process opens it for reading."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def eventually(condition: Callable[[], Any], what: str, bound: float = BOUND_SECONDS) -> Any:
    """Wait until `condition` is true and return its value; fail the test when it stays
    false.
    """
    deadline = time.monotonic() + bound
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {bound} s: {what}"
        time.sleep(0.002)
    return value


def seenUntil(wanted: Any, look: Callable[[], Any]) -> list[Any]:
    """What `look` returns again and again, up to `wanted`."""
    seen: list[Any] = []

    def isReached() -> bool:
        seen.append(look())
        return bool(seen[-1] == wanted)

    eventually(isReached, f"{wanted} is seen")
    return seen


def leftovers(domain: str) -> list[str]:
    """The segments of the domain, by their names below `/dev/shm`."""
    folder = f"muninn-{os.getuid()}-{domain}.d"
    with contextlib.suppress(FileNotFoundError):
        return sorted(
            f"{folder}/{entry}"
            for entry in os.listdir(f"/dev/shm/{folder}")
            if entry.startswith("segment-")
        )
    return []


def removeDomain(name: str, uid: int | None = None) -> None:
    """Remove the files of a domain that has no member any more, and of the domains that
    a test named after it; on request also those of another user.
    """
    stem = f"muninn-{os.getuid() if uid is None else uid}-{name}"
    for entry in os.listdir("/dev/shm"):
        if entry == stem or entry.startswith((f"{stem}.", f"{stem}-")):
            path = f"/dev/shm/{entry}"
            while os.path.lexists(path):
                # A thread that has just stopped serving removes its sockets.
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(
                        path
                    ) else os.unlink(path)


class Background:
    """A call on a thread of its own. `ended` fails the test when the call does not
    return: a thread that missed its wake-up would sleep for ever.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self.value: Any = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self.value = call()
        except Exception as error:
            self.value = error

    def isRunning(self) -> bool:
        return self._thread.is_alive()

    def asleep(self) -> Background:
        """Return once the call has had time to fall asleep. A test that is too fast
        here passes by mistake, and never fails by mistake.
        """
        time.sleep(0.1)
        assert self.isRunning(), self.value
        return self

    def ended(self, bound: float = 20.0) -> Any:
        """The value that the call returned, or the exception that it raised."""
        self._thread.join(bound)
        assert not self.isRunning(), f"it still waits after {bound} s"
        return self.value
