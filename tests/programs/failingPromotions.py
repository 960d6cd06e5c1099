wanted = muninn.share(np.zeros(4096, "u1"), "wanted", access="readWrite")


def fail():
    try:
        wanted.promote(0, 4096, 0, timeout=0)
    except (muninn.errors.PromotionDenied, TimeoutError):
        return True
    return False
