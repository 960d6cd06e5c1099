"""The checks of `doctor` that look at limits: those of this process, and those of its
control group.
"""

from __future__ import annotations

import os

from muninn.cli.finding import Finding
from muninn.config.sizes import asText

_ENOUGH_DESCRIPTORS, _ADVISED_DESCRIPTORS = 1024, 65536
#: Each process has Muninn's thread, the program's own threads, and the threads that
#: numerical libraries start.
_FEWEST_TASKS, _ENOUGH_TASKS = 4, 1024
_LEAST_GROUP_BYTES = 1 << 30


def memlock() -> Finding:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    found = "unlimited" if soft == resource.RLIM_INFINITY else asText(soft)
    if soft == resource.RLIM_INFINITY or os.geteuid() == 0:
        return Finding("ok", found)
    return Finding(
        "warn",
        found,
        "Pinning memory for a GPU needs `ulimit -l unlimited`; the host back-end does not",
    )


def descriptors() -> Finding:
    import resource

    from muninn.api.admin import fewestDescriptors

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} of at most {hard}"
    if soft >= _ENOUGH_DESCRIPTORS:
        return Finding("ok", found)
    advice = f"Raise it: `ulimit -n {min(hard, _ADVISED_DESCRIPTORS)}`"
    if hard < _ENOUGH_DESCRIPTORS:
        advice = (
            "Raise both as root: `prlimit --nofile=65536 --pid …`, `LimitNOFILE=` of "
            "systemd, `docker run --ulimit nofile=65536`"
        )
    if soft < fewestDescriptors():
        return Finding("fail", f"{found}: too few to be in a domain and serve it", advice)
    return Finding("warn", found, advice)


def processLimits() -> Finding:
    """The limits of the size of a file, of the memory of this process, and of the
    threads of its user.
    """
    import resource

    from muninn.config import loadSettings
    from muninn.control.geometry import Geometry

    control = loadSettings().control
    least = Geometry.of(control.maxMembers, control.maxBuffers, control.maxLeases).totalBytes
    low, verdict = list[str](), "ok"
    for name, option, needed in (
        (resource.RLIMIT_FSIZE, "-f", least),
        (resource.RLIMIT_AS, "-v", 16 * least),
        (resource.RLIMIT_DATA, "-d", 16 * least),
        (resource.RLIMIT_NPROC, "-u", 16),
    ):
        soft = resource.getrlimit(name)[0]
        if soft == resource.RLIM_INFINITY or (option == "-u" and soft >= 64 * needed):
            continue
        low.append(f"`ulimit {option}` is {soft if option == '-u' else asText(soft)}")
        verdict = (
            "fail" if soft < needed and option == "-f" else "warn" if verdict == "ok" else verdict
        )
    if not low:
        return Finding("ok", "none of files, memory or threads")
    return Finding(
        verdict,
        "; ".join(low),
        "Raise them: a buffer is a file and is mapped whole, and Muninn's threads count with yours",
    )


def controlGroup() -> Finding:
    """The limits that a container, a batch system or systemd sets. A page of shared
    memory counts in the group of the process that touched it first.
    """
    from muninn.system import cgroups, hostmemory

    found, verdict, advice = list[str](), "ok", list[str]()
    if (group := hostmemory.groupLimit()) is not None:
        found.append(
            f"{group.path} allows {asText(group.limitBytes)}, of which "
            f"{asText(group.leftBytes)} are free"
        )
        if group.leftBytes < _LEAST_GROUP_BYTES:
            verdict = "warn"
            advice.append(
                "raise it (`docker run --memory=…`, `resources.limits.memory` of a pod): "
                "shared memory counts as the group's, "
                'and memory that is reserved "lazy" beyond it ends the process that touches it'
            )
    if (tasks := cgroups.mostTasks()) is not None:
        found.append(f"at most {tasks} threads and processes (`pids.max`)")
        if tasks < _ENOUGH_TASKS:
            verdict = "fail" if tasks < _FEWEST_TASKS else "warn"
            advice.append(
                "raise `pids.max` (`docker run --pids-limit`, `TasksMax=`): Muninn has a "
                "thread in each process"
            )
    text = "; ".join(advice)
    return Finding(
        verdict,
        "; ".join(found) or "limits neither memory nor threads",
        text[:1].upper() + text[1:],
    )
