import threading

failures = []


def work():
    try:
        for _ in range(15):
            with muninn.open("a") as b:
                assert int(b.read().sum()) == 499500
                assert b.deviceArray().shape == (1000,)
            with muninn.MuninnBuffer(1 << 20, mode="fastMode", access="readWrite") as c:
                with c.write() as view:
                    view.copy_to_device(np.ones(1 << 20, np.uint8))
                assert c.read().all()
    except BaseException as error:
        failures.append(repr(error))


threads = [threading.Thread(target=work) for _ in range(8)]
for t in threads:
    t.start()
for t in threads:
    t.join(100)
