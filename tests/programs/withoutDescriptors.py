soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(
    resource.RLIMIT_NOFILE, (max(int(fd) for fd in os.listdir("/proc/self/fd")), hard)
)
filler = []
try:
    while True:
        filler.append(os.dup(0))
except OSError:
    pass
try:
    muninn.open("there")
    code = None
except muninn.errors.MuninnError as error:
    code = error.code
for fd in filler:
    os.close(fd)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
code
