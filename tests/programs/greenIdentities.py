lock.acquire(0)
lock.release()
lock.release()  # the thread still owns the locks that it had before


def add():
    for _ in range(10):
        with b.write() as view:
            seen = view[0]
            sleep(0.001)
            view[0] = seen + 1
        with lock:
            seen = plain[0]
            sleep(0.001)
            plain[0] = seen + 1
        with muninn.Lock("other").held(5):
            sleep(0.001)


for each in [spawn(add) for _ in range(6)]:
    join(each)
print(int(b.read()[0]), plain[0])
lock.acquire()


def other():
    try:
        return lock.acquire(0.05)
    except TimeoutError as error:
        return str(error)


print(join(spawn(other)))
lock.release()
b.free()
