"""Configuration: `loadSettings` and the settings that it returns. `defaults.toml` is
the list of all keys.
"""

from muninn.config.settings import (
    FILE_VARIABLE,
    TOKEN_VARIABLE,
    Settings,
    loadSettings,
    settingsIn,
    strangersIn,
    variableOf,
)
from muninn.config.sizes import asBytes
from muninn.config.variables import warnOnce

__all__ = [
    "FILE_VARIABLE",
    "TOKEN_VARIABLE",
    "Settings",
    "asBytes",
    "loadSettings",
    "settingsIn",
    "strangersIn",
    "variableOf",
    "warnOnce",
]
