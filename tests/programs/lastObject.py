import builtins, copy, os

items = np.zeros(2, [("x", "f4"), ("y", "i2")])
b = muninn.share(np.arange(3.0), name="b") if IS_JOINED else None


def use():
    return CALL


class Last:
    def __del__(
        self,
        use=use,
        write=os.write,
        error=muninn.MuninnError,
        refusal=muninn.errors.BrokerUnavailable,
    ):
        try:
            use()
        except refusal as refused:
            write(
                1, b"refused" if "interpreter is ending" in str(refused) else str(refused).encode()
            )
        except BaseException as failure:
            write(1, repr(failure).encode())
        else:
            write(1, b"works")


HELD
