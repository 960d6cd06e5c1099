enter()


def kernels():
    """The kernels, or None on a driver that takes no PTX."""
    answer = cu.cuModuleLoadData(PTX.encode() + b"\0")
    if code(answer) == "INVALID_IMAGE":
        return None
    return {
        name: ok(cu.cuModuleGetFunction(ok(answer), name.encode())) for name in ("count", "poke")
    }


def launch(kernel, stream, *words):
    return cu.cuLaunchKernel(
        kernel, 1, 1, 1, 1, 1, 1, 0, stream, (words, (ctypes.c_uint64,) * len(words)), 0
    )


semaphoreAt = pinned(4096)
semaphoreWord = ctypes.c_uint64.from_address(semaphoreAt)
semaphoreWord.value = 0
semaphores = 0


def closed(stream, seconds=0.5):
    "Make a stream wait until the CPU opens it, at the latest after `seconds`."
    global semaphores
    semaphores += 1
    ok(cu.cuStreamWaitValue64(stream, semaphoreAt, semaphores, 0))
    timer = threading.Timer(seconds, setattr, (semaphoreWord, "value", semaphores))
    timer.daemon = True
    timer.start()
    return timer


def waited(call):
    "The answer of a call, and whether the call waited for the semaphore."
    began = time.monotonic()
    answer = call()
    took = time.monotonic() - began
    return [code(answer), "waited" if took > 0.4 else "at once"]


def lost(s):
    "Make a stream's work fail: by a kernel, or without kernels by memory that is unmapped under it."
    k = kernels()
    if k:
        return code(launch(k["poke"], s, 0xDEAD000))
    h = ok(cu.cuMemCreate(2 << 20, prop(), 0))
    a = mapHandle(h, 2 << 20)
    closed(s)
    ok(cu.cuMemsetD8Async(a, 1, 64, s))
    ok(cu.cuMemUnmap(a, 2 << 20))
    return "unmapped"
