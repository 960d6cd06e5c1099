import os, numpy as np, muninn

b = muninn.share(np.arange(10), "a", mode=MODE)
BEGIN
read, write = os.pipe()
if (pid := os.fork()) == 0:
    said = []
    for use in (lambda: muninn.MuninnBuffer(4096, mode="fastMode"), lambda: b.open()):
        try:
            use()
            said.append("nothing")
        except muninn.MuninnError as error:
            said.append(f"{error.code} {type(error).__name__} {error.fix}")
    os.write(write, "\n".join(said).encode())
    os._exit(0)
os.waitpid(pid, 0)
print(os.read(read, 65536).decode())
print(int(b.read().sum()))
