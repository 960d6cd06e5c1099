reading, writing = os.pipe()
children = []
for number in range(12):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(writing)
            os.read(reading, 1)
            held = muninn.share(np.arange(3), name=f"n{number}")
            status = 0
        finally:
            os._exit(status)
    children.append(child)
os.close(reading)
os.close(writing)
