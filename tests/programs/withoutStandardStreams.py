b = muninn.share(np.arange(4), name="d")
v = muninn.share(np.arange(4), name="vram", mode="fastMode")
muninn.open("vram")
import warnings, logging

warnings.warn("this is not read")
logging.getLogger("muninn.member").error("nor this")
libc = ctypes.CDLL(None)
said = [fd for fd in range(3) if libc.fcntl(fd, 1) != -1]
for fd in range(3):
    libc.write(fd, b"** On entry to DGEMM parameter number 8", 40)
said.append(muninn.share(np.arange(3)).array.tolist())
b = muninn.open("d")
said.append(b.array.tolist())
os.fork() or os._exit(0)
