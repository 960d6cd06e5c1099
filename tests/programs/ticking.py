ticks = [0]


def tick():
    while True:
        ticks[0] += 1
        sleep(0.01)


spawn(tick)


def ticksWhile(call):
    before = ticks[0]
    try:
        call()
    except (TimeoutError, muninn.MuninnError):
        pass
    return ticks[0] - before
