reading, writing = os.pipe()
if (child := os.fork()) == 0:
    try:
        CHANGE
        precious = muninn.share(np.full(3, 7), name="precious")
        FREED
        os.write(
            writing,
            f"{said} {precious.read().tolist()} {[each['name'] for each in muninn.listBuffers()]}".encode(),
        )
    finally:
        os._exit(0)
os.close(writing)
os.waitpid(child, 0)
os.read(reading, 1000).decode()
