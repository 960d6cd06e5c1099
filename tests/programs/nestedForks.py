import os, sys, signal, threading
from muninn.system.forks import Guard

guards, depth, forked = [Guard(isWhole=True) for _ in range(3)], 0, []


def isFree():
    found = []
    thread = threading.Thread(
        target=lambda: found.extend(
            guard.lock.acquire(timeout=0) and guard.lock.release() is None for guard in guards
        )
    )
    thread.start()
    thread.join()
    return all(found)


def fork():
    pid = os.fork()
    if not pid:
        os._exit(0 if isFree() else 3)
    forked.append(os.waitpid(pid, 0)[1])


if sys.argv[1] == "forks":
    hook = lambda: depth or nested()
else:

    def hook():
        raise KeyboardInterrupt


def nested():
    global depth
    depth += 1
    fork()


for at in ("before", "after_in_parent"):
    os.register_at_fork(**{at: hook})


def trace(frame, event, argument):
    frame.f_trace_opcodes = frame.f_code.co_filename.endswith("forks.py")
    if event == "opcode" and not depth:
        hook()
    return trace


sys.unraisablehook = lambda _: None
sys.settrace(trace)
fork()
sys.settrace(None)
print(set(forked), isFree())
