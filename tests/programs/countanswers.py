import muninn.service.endpoint

answers, _answer = 0, muninn.service.endpoint.answer


def _counted(*arguments):
    global answers
    answers += 1
    return _answer(*arguments)


muninn.service.endpoint.answer = _counted
