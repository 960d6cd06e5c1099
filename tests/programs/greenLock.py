import numpy as np, muninn

b, lock = muninn.share(np.zeros(1), name="b", access="readWrite"), muninn.Lock("lock")
plain = [0]


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


for each in [spawn(add) for _ in range(6)]:
    join(each)
print(int(b.read()[0]), plain[0])
b.free()
