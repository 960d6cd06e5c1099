import os, signal, sys, muninn
from muninn.errors import MuninnError


def say(*words):
    os.write(1, (" ".join(map(str, words)) + chr(10)).encode())


muninn.domainInfo()
children = []


def fork(*_):
    children.append(os.fork())
    say(os.getpid(), "forked")


signal.signal(signal.SIGUSR1, fork)
say(os.getpid(), "asks")
try:
    muninn.free("nothing")
except MuninnError as error:
    say("child" if children == [0] else "parent", type(error).__name__)
if children == [0]:
    say(muninn.open("w").read().sum())
    os._exit(0)
os.waitpid(children[0], 0)
