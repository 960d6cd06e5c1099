"""The commands that change a buffer or the domain: `alloc`, `open`, `close`, `free`,
`evict`, `drain`, `load`.

A command joins the domain as any process does, and leaves it when it ends. `alloc` of
fastMode memory and `open` stay in the domain until SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from muninn.cli.ending import hold, say, stopped
from muninn.cli.listing import printDescription
from muninn.cli.output import bar, counted, printable, printError, problemOf, waitingBy
from muninn.cli.transfers import transferOf, wayOf
from muninn.config.sizes import asText
from muninn.errors import BufferNotFound, MuninnError

if TYPE_CHECKING:
    from muninn import MuninnBuffer

#: How long the random part is of the name that `alloc` makes up.
_NAME_BYTES = 4
#: What is not part of the name of a file that `load` reads.
_ENDINGS = (".index.json", ".safetensors", ".npz", ".npy", ".pt", ".pth", ".bin")


@contextmanager
def _bar(what: str, total: int) -> Iterator[Any]:
    """A progress bar for bytes. Yields a function that takes how many are done since its
    last call.
    """
    # Muninn reserves all the memory before the first byte is written.
    with bar(f"{what}: reserving memory") as show:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            show(what, done, total, f"{asText(done)} of {asText(total)}")

        yield advance


def runAlloc(arguments: argparse.Namespace) -> int:
    import muninn
    from muninn.api.specs import asSize

    if arguments.gpu is not None and arguments.mode == "bigMode":
        arguments.fail("--gpu is for --mode fastMode: the others are in host memory")
    if arguments.reserve == "lazy" and arguments.mode == "fastMode":
        arguments.fail("--reserve lazy is for --mode bigMode: a GPU's memory is there at once")
    # A buffer that no process holds can be found by its name alone.
    name = arguments.name or f"buffer-{os.urandom(_NAME_BYTES).hex()}"
    with _bar(f"allocating {name}", asSize(arguments.size)) as progress:
        buffer = muninn.MuninnBuffer(
            arguments.size,
            arguments.mode,
            arguments.gpu,
            arguments.access,
            name,
            arguments.tenant,
            lifetime="keep",
            lifetimeMs=arguments.lifetime_ms,
            reserve=arguments.reserve,
            progress=progress,
        )
    with buffer:
        # The handlers are set before the message tells the user to press Ctrl-C.
        stop = stopped() if buffer.mode == "fastMode" else None
        if stop is not None:
            _sayHeld()
        status = say(
            arguments, buffer.describe(), f"{buffer.name}: {asText(buffer.nbytes)} of {buffer.mode}"
        )
        if stop is not None:
            hold(buffer.open, stop)
    return status


def runOpen(arguments: argparse.Namespace) -> int:
    from muninn.interop.hostarrays import addressOf

    if arguments.target_gpu is None and arguments.route is not None:
        arguments.fail("--route is the way to a GPU: give --target-gpu too")
    with waitingBy("--timeout"), _opened(arguments) as buffer:
        stop = stopped()
        # Kernels do not reach private memory, so such a buffer has no address for them.
        described = buffer.describe()
        isPrivate = described["openedAs"] == "copyOnWrite"
        address = addressOf(buffer.array) if isPrivate else buffer.open()
        bound = "" if arguments.seconds is None else f"for {arguments.seconds:g} s, or "
        shown = (
            f"{buffer.name}: {asText(buffer.nbytes)} of {buffer.mode} at "
            f"{address:#x}; held {bound}until Ctrl-C"
        )
        result = described
        if arguments.target_gpu is not None:
            result = {**described, "route": buffer.route, "transfer": transferOf(buffer.transfer)}
            shown = f"{_wayTo(buffer, arguments.name, arguments.target_gpu)}\n{shown}"
        if not arguments.json:
            printDescription(described)
        status = say(arguments, result, shown)
        hold(buffer.open, stop, arguments.seconds)
    return status


def _opened(arguments: argparse.Namespace) -> MuninnBuffer:
    from muninn.api import opening

    name, access, timeout = arguments.name, arguments.access, arguments.timeout
    if arguments.target_gpu is None:
        return opening.openAny(name, access, timeout)
    return opening.open(
        name, access, timeout, targetGpu=arguments.target_gpu, route=arguments.route
    )


def _wayTo(buffer: MuninnBuffer, name: str, gpu: int) -> str:
    """How the bytes came to a GPU, or why none did."""
    transfer = buffer.transfer
    if transfer is None:
        home = "host memory" if buffer.gpu is None else f"GPU {buffer.gpu}"
        mapped = f"{name} stays in {home}, mapped for kernels of GPU {gpu}: no byte was copied"
        return mapped if buffer.route else f"{name} is on GPU {gpu}: no byte was copied"
    return printable(f"{name} from {transfer.source} to {wayOf(transfer)}")


def runClose(arguments: argparse.Namespace) -> int:
    from muninn.api import admin
    from muninn.errors import InvalidArgument, LeaseRevoked

    who = f"slot {arguments.slot}" if arguments.pid is None else f"process {arguments.pid}"
    wanted = arguments.slot if arguments.pid is None else arguments.pid
    held = [
        each
        for each in admin.holders(arguments.name)
        if (each.hold.slot if arguments.pid is None else each.pid) == wanted
    ]
    if not held:
        raise BufferNotFound(
            f"{who} holds no lease on {arguments.name!r}",
            "`python -m muninn` lists the processes that do",
        )
    if len({each.process for each in held}) > 1:
        slots = ", ".join(f"{each.hold.slot} ({each.program})" for each in held)
        raise InvalidArgument(
            f"{who} may be any of several that hold {arguments.name!r}, in PID namespaces of "
            f"their own: those in the slots {slots}",
            "Give `--slot` instead of `--pid`; `describe --json` has the slots too",
        )
    if all(each.hold.reason for each in held):
        raise LeaseRevoked(
            f"the lease of {who} on {arguments.name!r} was revoked before ({held[0].hold.reason})",
            "Wait until it closes the buffer",
        )
    revoked = admin.revoke(held)
    return say(
        arguments,
        {"revoked": revoked},
        f"{arguments.name}: {counted(revoked, 'lease')} of {who} revoked",
    )


def runFree(arguments: argparse.Namespace) -> int:
    import muninn

    names = list(dict.fromkeys([*arguments.names, *arguments.named]))
    isChosen = arguments.all or arguments.tenant is not None
    if bool(names) == isChosen or (arguments.all and arguments.tenant is not None):
        arguments.fail("give either NAMEs, or --tenant, or --all")
    if isChosen:
        names = _freeable(arguments.tenant)
    freed, errors = list[str](), list[MuninnError]()
    for name in names:
        try:
            muninn.free(name)
            freed.append(name)
        except BufferNotFound as error:
            if not isChosen:  # another process has freed what was listed
                errors.append(error)
    if arguments.json or not errors:
        done = {"freed": freed} if not errors else {"freed": freed, **problemOf(errors[0])}
        say(arguments, done, _freedText(freed))
    elif freed:
        print(_freedText(freed))
    for each in errors:
        printError(each, asJson=False)
    return 1 if errors else 0


def _freeable(tenant: str | None) -> list[str]:
    """The buffers of a tenant, or of all; a window goes with its buffer."""
    import muninn

    every = [each for each in muninn.listBuffers() if each["windowOf"] is None and each["name"]]
    if tenant is not None:
        every = [each for each in every if each["tenant"] == tenant]
    if tenant is not None and not every:
        raise BufferNotFound(
            f"tenant {tenant!r} has no buffer", "`python -m muninn list` shows the tenants"
        )
    return [each["name"] for each in every if each["state"] == "live"]


def _freedText(names: list[str]) -> str:
    names = [printable(name) for name in names]
    if len(names) == 1:
        return f"{names[0]}: freed; its memory goes with its last holder"
    if not names:
        return "there is no buffer to free"
    return "\n".join(
        [*(f"{name}: freed" for name in names), "their memory goes with their last holders"]
    )


def runEvict(arguments: argparse.Namespace) -> int:
    from muninn.api import admin

    if arguments.gpu is not None and not arguments.windows:
        arguments.fail("--gpu is for --windows")
    if arguments.windows:
        if arguments.name is None or arguments.tenant is not None:
            arguments.fail("--windows is for a NAME, without --tenant")
        revoked = admin.evictWindows(arguments.name, arguments.gpu)
        where = "" if arguments.gpu is None else f" on GPU {arguments.gpu}"
        return say(
            arguments,
            {"revoked": revoked},
            f"{counted(revoked, 'lease')} on windows of {arguments.name}{where} revoked",
        )
    if arguments.name is None and arguments.tenant is None:
        arguments.fail("give a NAME, --tenant or both")
    evicted = admin.evict(arguments.name, arguments.tenant)
    ofWindows = f", {evicted.ofWindows} of them on its windows" if evicted.ofWindows else ""
    text = f"{counted(evicted.revoked, 'lease')} revoked{ofWindows}"
    return say(arguments, evicted._asdict(), text)


def runDrain(arguments: argparse.Namespace) -> int:
    import muninn
    from muninn.api import admin

    if arguments.off and arguments.reason:
        arguments.fail("--reason is why a drain begins, and --off ends it")
    held = admin.drain(not arguments.off, arguments.reason)
    told = muninn.domainInfo()["drainReason"] or ""
    if not arguments.off and told != " ".join(arguments.reason.split()):
        print(
            f"muninn: the reason was cut to the room that there is for it: {printable(told)}",
            file=sys.stderr,
        )
    text = (
        "the domain creates buffers again"
        if arguments.off
        else f"the domain creates nothing new until `drain --off`; {held} "
        f"lease{'s are' if held != 1 else ' is'} still held"
    )
    return say(arguments, {"draining": not arguments.off, "leases": held}, text)


def runLoad(arguments: argparse.Namespace) -> int:
    from muninn import Bundle
    from muninn.api.loading import loadedSource
    from muninn.api.options import BufferOptions
    from muninn.formats import openFile

    if arguments.gpu is not None and arguments.mode == "bigMode":
        arguments.fail("--gpu is for --mode fastMode: the others are in host memory")
    name = arguments.name or _nameOf(arguments.file)
    with (
        openFile(arguments.file) as source,
        _bar(f"loading {source.path.name}", source.sizeBytes) as progress,
    ):
        options = BufferOptions(
            name=name,
            mode=arguments.mode,
            preferredGpu=arguments.gpu,
            tenant=arguments.tenant,
            access=arguments.access,
            progress=progress,
        )
        loaded = loadedSource("load", source, options)
    with loaded:
        what = counted(len(source.entries), "array")
        text = f"{name}: {what}, {asText(source.sizeBytes)}, from {source.path.name}"
        # The handlers are set before the message tells the user to press Ctrl-C.
        buffer = loaded.buffer if isinstance(loaded, Bundle) else loaded
        stop = stopped() if buffer.mode == "fastMode" else None
        if stop is not None:
            _sayHeld()
        status = say(arguments, loaded.describe(), text)
        if stop is not None:
            hold(buffer.open, stop)
    return status


def _nameOf(file: str) -> str:
    """The name of what is loaded from a file, or from a folder, without a name."""
    name = os.path.basename(os.path.abspath(file))
    for ending in _ENDINGS:
        if len(name) > len(ending):
            name = name.removesuffix(ending)
    return name


def _sayHeld() -> None:
    print(
        "muninn: fastMode memory goes with the last process of the domain; holding it until Ctrl-C",
        file=sys.stderr,
    )
