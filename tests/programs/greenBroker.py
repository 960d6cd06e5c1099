import numpy as np, muninn

b = muninn.share(np.arange(3), name="b", access="readWrite")
with b.write() as view:
    view[0] = 7
with muninn.Lock("lock"):
    pass
f = muninn.share(np.arange(3.0), name="f", mode="fastMode")
stream = muninn.createStream()
ticket = f.signal(stream)
f.wait(stream, ticket)
stream.synchronize()
print(muninn.open("b").read().tolist(), [each["name"] for each in muninn.listBuffers()])
b.free()
f.free()
