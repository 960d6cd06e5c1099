import threading

stop, done, failed = threading.Event(), [0], []
kept = muninn.open("kept", access="readWrite")


def work():
    try:
        while not stop.is_set():
            with muninn.share(np.full(100, done[0]), name=f"w{done[0]}") as mine:
                assert muninn.open(mine.name).array[-1] == done[0]
                mine.free()
            with kept.write() as view:
                view[0] = done[0]
            done[0] += 1
    except BaseException as error:
        failed.append(repr(error))


thread = threading.Thread(target=work)
thread.start()
