import os, threading, time, traceback
import numpy, muninn

bare, count, stop = [], 0, False


def work():
    global count
    while not stop:
        try:
            buffer = muninn.share(numpy.full(16, count), name=f"n{count}")
            with buffer.write() as view:
                view[:] = count + 1
            assert muninn.open(f"n{count}").read()[0] == count + 1
            buffer.free()
        except muninn.MuninnError:
            pass
        except BaseException:
            bare.append(traceback.format_exc())
        count += 1


thread = threading.Thread(target=work)
thread.start()
toggled = 0
while toggled < 60 or count <= 10 and toggled < 2000:
    toggled += 1
    os.seteuid(65534)
    time.sleep(0.003)
    os.seteuid(0)
    time.sleep(0.02)
stop = True
thread.join()
print(*bare)
print(count > 10, len(bare), flush=True)
os._exit(0)
