import resource


def without(spare, code):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    filler = []
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (max(int(fd) for fd in os.listdir("/proc/self/fd")) + 40, hard)
        )
        while True:
            try:
                filler.append(os.dup(2))
            except OSError:
                break
        for _ in range(spare):
            os.close(filler.pop())
        try:
            exec(code, globals())
            return "done"
        except muninn.MuninnError as error:
            return error.code
        except BaseException as error:
            import traceback

            return "".join(traceback.format_exception(error)[-2:])
    finally:
        for fd in filler:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors():
    return len(os.listdir("/proc/self/fd"))
