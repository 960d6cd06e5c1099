reading, writing = os.pipe()
if (child := os.fork()) == 0:
    os.environ["MUNINN_DOMAIN"] = "DOMAIN-b"
    seen = []
    for use in (lambda: a.array, lambda: a.read(), lambda: lock.acquire(timeout=1)):
        try:
            seen.append(repr(use()))
        except Exception as error:
            seen.append(type(error).__name__)
    os.write(writing, " ".join(seen).encode())
    os._exit(0)
os.close(writing)
os.waitpid(child, 0)
os.read(reading, 1000).decode()
