buffer = muninn.share(np.arange(5), name="a", lifetime="lastClose")
said, say = os.pipe()
parentPid = os.getpid()
child = os.fork()
if child == 0:
    theirs = buffer.array
    os.write(say, b"x")
    while os.getppid() == parentPid:
        time.sleep(0.005)
    muninn.array("told", 1, "i8").array[0] = buffer.array.sum() + 1
    time.sleep(60)
assert os.read(said, 1) == b"x"
