kept, brief = (
    muninn.share(np.arange(5), name="a"),
    muninn.share(np.arange(7), name="brief", lifetime="lastClose"),
)
array = kept.array
said, say = os.pipe()
heard, tell = os.pipe()
child = os.fork()
if child == 0:
    status = 1
    try:
        assert array.sum() == 10 and kept.array.sum() == 10 and brief.array.sum() == 21
        with kept.write() as view:
            view[0] = 100
        mine = muninn.share(np.arange(3), name="child")
        os.write(say, b"x")
        os.read(heard, 1)
        kept.close()
        brief.close()
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
        os.write(say, b"-")
    finally:
        os._exit(status)
assert os.read(said, 1) == b"x"
