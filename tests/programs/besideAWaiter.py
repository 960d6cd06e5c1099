def one_(name, call):
    ok(cu.cuCtxSetCurrent(c))
    began = time.monotonic()
    answer = call()
    seen[name] = [code(answer), "waited" if time.monotonic() - began > 0.5 else "at once"]


def waiting():
    ok(cu.cuCtxSetCurrent(c))
    began = time.monotonic()
    answer = cu.WAITS
    took.append(code(answer) + (" waited" if time.monotonic() - began > 0.5 else " at once"))


calls = dict(
    cuEventSynchronize=lambda: cu.cuEventSynchronize(e),
    cuEventQuery=lambda: cu.cuEventQuery(e),
    cuStreamQuery=lambda: cu.cuStreamQuery(s),
    cuEventRecord=lambda: cu.cuEventRecord(e, s),
    cuStreamWriteValue64=lambda: cu.cuStreamWriteValue64(s, f, 1, 0),
    cuMemcpyHtoDAsync=lambda: cu.cuMemcpyHtoDAsync(f, big, 1 << 20, s),
    cuMemCreate=lambda: cu.cuMemCreate(2 << 20, prop(), 0),
    cuMemAlloc=lambda: cu.cuMemAlloc(4 << 20),
    cuPointerGetAttribute=lambda: cu.cuPointerGetAttribute(
        cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, f
    ),
    cuStreamIsCapturing=lambda: cu.cuStreamIsCapturing(s),
)
timer = closed(t, 2.0)
blocker = threading.Thread(target=waiting)
blocker.start()
time.sleep(0.3)
threads = [threading.Thread(target=one_, args=pair) for pair in calls.items()]
for each in threads:
    each.start()
for each in threads:
    each.join(30)
blocker.join(30)
timer.join()
