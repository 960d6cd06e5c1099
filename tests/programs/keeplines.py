import logging

lines = []


class _Keeping(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())


logging.getLogger("muninn.metrics").addHandler(_Keeping())
