import time

muninn.share(np.zeros(8), "expiring").close()


def misuse():
    strict = muninn.open("expiring", renew="onUse")
    time.sleep(0.3)
    try:
        strict.array
    except muninn.errors.LeaseExpired:
        return True
    return False
