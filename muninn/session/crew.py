"""Crews: threads that do many jobs at once for one caller, and end before it goes on.

The caller hears how much is done, on its own thread. If a job fails, or the caller is
interrupted, or the function that it told raises, no further job begins, and the error
leaves only when all threads have ended. Nothing of a crew survives its call.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

from muninn.system import threads
from muninn.system.green import Condition
from muninn.system.threads import AnyThread

Told = Callable[[int], object]
Tool = TypeVar("Tool")


class Crew(Generic[Tool]):
    """The threads for a list of jobs.

    Parameters
    ----------
    jobs
        Each is called once, by some thread, with that thread's tool and a function that
        takes the amount that was done since it was called last.
    tools
        Makes the tool of a thread, on that thread, which also closes it.
    finish
        Called by each thread with its tool after its last job, if none has failed.
    """

    def __init__(
        self,
        jobs: Iterable[Callable[[Tool, Told], None]],
        tools: Callable[[], AbstractContextManager[Tool]],
        finish: Callable[[Tool], None],
    ) -> None:
        # A deque: `popleft` is one step.
        self._jobs = deque(jobs)
        self._tools, self._finish = tools, finish
        self._changed = Condition()
        self._left = len(self._jobs)
        self._done = self._working = 0
        self._isOver = False
        self._errors: list[BaseException] = []
        self._threads: list[AnyThread] = []

    def work(self, count: int, progress: Told | None) -> None:
        """Let at most `count` threads do all jobs. Raises the first error of a job.

        Raises
        ------
        ThreadsExhausted
            No thread can be started.
        """
        try:
            for number in range(min(count, self._left)):
                self._threads.append(threads.start(self._run, f"muninn-crew-{number}"))
            self._follow(progress)
        finally:
            self._end()
        if self._errors:
            error = self._errors[0]
            self._errors.clear()
            try:
                raise error
            finally:
                del error  # its traceback holds this frame

    def _follow(self, progress: Told | None) -> None:
        """Tell what is done until there is no more."""
        isWorking = True
        while isWorking:
            with self._changed.lock:
                while self._isWorking() and not self._done:
                    self._changed.wait()
                done, self._done = self._done, 0
                isWorking = self._isWorking()
            if done and progress is not None:
                progress(done)

    def _isWorking(self) -> bool:
        return not self._errors and bool(self._left or self._working)

    def _end(self) -> None:
        """Let no job begin any more, and wait for the threads. An interruption of the
        wait is raised after it, because the jobs use memory of the caller's.
        """
        interruption: BaseException | None = None
        self._isOver = True
        while self._threads or self._working:
            try:
                with self._changed.lock:
                    while self._working:
                        self._changed.wait()
                while self._threads:
                    self._threads[-1].join()
                    self._threads.pop()
            except BaseException as error:
                interruption = error
        try:
            if interruption is not None:
                raise interruption
        finally:
            del interruption  # its traceback holds this frame

    # --- on the threads ------------------------------------------------------------------

    def _run(self) -> None:
        # A thread that begins late, after the end, takes nothing up.
        with self._changed.lock:
            if self._isOver:
                return
            self._working += 1
        error: BaseException | None = None
        try:
            with self._tools() as tool:
                while self._next(tool):
                    pass
                if not self._errors and not self._isOver:
                    self._finish(tool)
        except BaseException as raised:  # a SystemExit too, which would end this thread only
            error = raised
            _clear(raised)
        with self._changed.lock:
            if error is not None:
                self._errors.append(error)
                error = None  # its traceback holds this frame
            self._working -= 1
            self._changed.notifyAll()

    def _next(self, tool: Tool) -> bool:
        """Do one job; False where there is none to be done."""
        if self._isOver or self._errors or not self._jobs:
            return False
        try:
            job = self._jobs.popleft()
        except IndexError:  # another thread has taken the last one
            return False
        job(tool, self._tell)
        with self._changed.lock:
            self._left -= 1
        return True

    def _tell(self, amount: int) -> None:
        with self._changed.lock:
            self._done += amount
            self._changed.notifyAll()


def _clear(error: BaseException) -> None:
    """Drop the variables of the frames that an error has left: they hold the memory
    that the job was filling.
    """
    trace = error.__traceback__
    while trace is not None:
        with contextlib.suppress(RuntimeError):  # the frame that catches it still runs
            trace.tb_frame.clear()
        trace = trace.tb_next
