def work(first, count):
    kept = []
    for number in range(first, first + count):
        name = f"w{number}"
        buffer = muninn.share(np.full(600, number), name=name)
        assert muninn.open(name).array[0] == number
        if number % 3:
            buffer.free()
        else:
            kept.append(name)
        buffer.close()
    return kept
