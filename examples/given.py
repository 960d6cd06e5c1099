"""The parts that the command lines of the examples share: they check numbers, and print
a copy, or a refusal, in one line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import muninn

if TYPE_CHECKING:
    from muninn.transfer.handle import Transfer

_DAY_SECONDS = 86_400
#: A thousand times more than Muninn shares at once.
_MOST_GIB = 1 << 36


def count(text: str) -> int:
    """A whole number from 1 up."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def gpu(text: str) -> int:
    """The index of a GPU."""
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{number} is less than 0")
    return number


def seconds(text: str) -> float:
    """Seconds from 0 up to a day."""
    if not 0 <= (number := float(text)) <= _DAY_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to {_DAY_SECONDS}")
    return number


def gib(text: str) -> float:
    """GiB above 0."""
    if not 0 < (number := float(text)) <= _MOST_GIB:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to {_MOST_GIB}, without 0")
    return number


def requireTenant(buffer: muninn.MuninnBuffer, tenant: str | None) -> None:
    """End the program if the buffer is another tenant's than the one that was given."""
    if tenant is not None and (found := buffer.describe()["tenant"]) != tenant:
        sys.exit(f"{buffer.name} is of tenant {found}, and not of {tenant}")


def answerOf(program: str, *arguments: str) -> str:
    """What another process prints that runs `program` with these arguments."""
    command = [sys.executable, "-W", "ignore", program, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return ran.stdout.strip()


def twoGpus() -> dict[str, Any]:
    """Emulate two GPUs if the machine has fewer; returns what it has, as `topology --json`."""
    seen: dict[str, Any] = json.loads(answerOf("-m", "muninn", "topology", "--json"))
    if len(seen["gpus"]) < 2:
        # Muninn reads the environment when the process first uses it.
        os.environ |= {"MUNINN_DEVICE": "host", "MUNINN_HOST_GPUS": "2"}
    return seen


def wayOf(transfer: Transfer[Any]) -> str:
    """Which way the bytes of a copy went, why, and how fast."""
    seconds = max(transfer.seconds, 1e-9)
    return (
        f"{transfer.route} ({transfer.reason}), {transfer.sizeBytes} bytes in "
        f"{seconds * 1e3:.3f} ms: {transfer.sizeBytes / seconds / 1e9:.3g} GB/s"
    )


def run(main: Callable[[], int | None]) -> None:
    """Run a program to its end. An error of Muninn's ends it with one line, and not
    with a traceback.
    """
    try:
        sys.exit(main())
    except muninn.MuninnError as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(f"the other process ended with status {error.returncode}")
    except KeyboardInterrupt:
        sys.exit(130)
