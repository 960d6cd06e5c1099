def decide(first, second, third):
    if (
        first  # a comment that was wrapped
        and second
        # and another one
        or third
    ):
        raise KeyError(
            "two  spaces",
            first,
        )
    return first or second
