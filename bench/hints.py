"""How much of what hints bring to a GPU is used, by the example's own workload."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from bench.harness import Options, Row

_EXAMPLE = Path(__file__).parent.parent / "examples" / "hints.py"
#: Useful bytes as shares of what was prefetched.
_MUST, _GO = 1 / 0.7, 1 / 0.9


def useful(options: Options) -> list[Row]:
    """Few lookups, after which the hints are vague, and many."""
    return [_row(count) for count in (options.pick(20_000, 2_000), options.pick(60_000, 4_000))]


def _row(count: int) -> Row:
    command = [sys.executable, str(_EXAMPLE), str(count)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    ready = re.search(r"(\d+) of \d+ KiB are on the GPU", said)
    share = re.search(r"useful bytes: ([\d.]+)", said)
    assert ready is not None and share is not None and "the sums are right" in said, said
    prefetched = float(ready[1]) / 1024
    what = f"bytes that hints bring, {count} lookups"
    used = prefetched * float(share[1])
    return Row(what, "MiB", [prefetched], [used], "those that are used", _MUST, _GO)
