import sys


def daemonize(work):
    there, back = os.pipe()
    if (child := os.fork()) == 0:
        answer = 1023
        os.dup2(back, answer)
        os.closerange(0, 1023)
        for fd in range(3):
            assert os.open("/dev/null", os.O_RDWR) == fd
        try:
            said = repr(work())
        except BaseException as error:
            said = type(error).__name__ + ": " + str(error)
        os.write(answer, said.encode())
        os._exit(0)
    os.close(back)
    said = b""
    while more := os.read(there, 4096):
        said += more
    os.close(there)
    os.waitpid(child, 0)
    return said.decode()
