"""The errors of Muninn: one class for each row of `errortable`, by its name.

A class takes its code, its meaning and its usual fix from its row. This module states
only its name, for type checkers, and its base classes. A code crosses the socket as its
number; nothing else of an error is shared between processes.
"""

from __future__ import annotations

from typing import ClassVar

from muninn.errortable import ERRORS, ErrorRow


class MuninnError(Exception):
    """The base class of all errors of Muninn.

    Parameters
    ----------
    reason
        The reason, with the names and numbers of this case.
    fix
        The advice; by default the table's usual fix.

    Attributes
    ----------
    code
        ``"MNN-0011"``: stable, and the heading to look up in
        ``docs/troubleshooting.md``.
    number
        The number in the code. The C part returns it negated.
    isCounted
        Whether it has been counted as an error that a program got.
    """

    isCounted = False

    row: ClassVar[ErrorRow]
    code: ClassVar[str]
    number: ClassVar[int]
    category: ClassVar[str]

    def __init__(self, reason: str, fix: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix or self.row.fix

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        if "row" not in cls.__dict__:
            row = _ROW_OF_NAME.get(cls.__name__)
            if row is None:
                return
            cls.row = row
        cls.code, cls.category = cls.row.code, cls.row.category
        cls.number = int(cls.row.code.removeprefix("MNN-"))
        cls.__doc__ = f"{cls.row.code}: {cls.row.meaning}. {cls.row.fix}."

    def __str__(self) -> str:
        return f"{self.code} {type(self).__name__}: {self.reason}. Fix: {self.fix}."

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.fix)


_ROW_OF_NAME = {row.name: row for row in ERRORS}


class InvalidConfig(MuninnError): ...


class UnsupportedMode(MuninnError, ValueError): ...


class IpcHandleMismatch(MuninnError): ...


class LeaseExpired(MuninnError): ...


class TopologyNotPeerable(MuninnError): ...


class PromotionDenied(MuninnError): ...


class NvmeSpillUnavailable(MuninnError): ...


class PermissionDenied(MuninnError, PermissionError): ...


class BarPressureHigh(MuninnError): ...


class OwnerDied(MuninnError): ...


class BufferNotFound(MuninnError, LookupError): ...


class BufferMismatch(MuninnError, ValueError): ...


class BufferFreed(MuninnError): ...


class LeaseRevoked(MuninnError): ...


class HostMemoryFull(MuninnError, MemoryError): ...


class QuotaExceeded(MuninnError): ...


class TableFull(MuninnError): ...


class HandleInvalid(MuninnError, ValueError): ...


class ControlBlockInvalid(MuninnError): ...


class ProtocolViolation(MuninnError): ...


class BrokerUnavailable(MuninnError): ...


class WriterDied(MuninnError): ...


class FileInvalid(MuninnError): ...


class DomainDraining(MuninnError): ...


class DescriptorsExhausted(MuninnError): ...


class InvalidArgument(MuninnError, ValueError): ...


class InvalidDtype(MuninnError, TypeError): ...


class BufferExists(MuninnError): ...


class DeviceUnavailable(MuninnError): ...


class ForkedAfterCuda(MuninnError): ...


class PlatformUnsupported(MuninnError): ...


class NotHostVisible(MuninnError): ...


class DomainChanged(MuninnError): ...


class ThreadsExhausted(BrokerUnavailable, RuntimeError): ...


class HolderSilent(BrokerUnavailable): ...


class TransferCancelled(MuninnError): ...


class WritebackConflict(MuninnError): ...


ERROR_OF_NUMBER: dict[int, type[MuninnError]] = {
    errorClass.number: errorClass
    for errorClass in tuple(globals().values())
    if isinstance(errorClass, type)
    and issubclass(errorClass, MuninnError)
    and errorClass is not MuninnError
}
assert len(ERROR_OF_NUMBER) == len(ERRORS)
