"""Configuration: `loadSettings` and what it returns. `defaults.toml` is the list of all keys."""

from muninn.config.settings import Settings, loadSettings
from muninn.config.sizes import asBytes

__all__ = ["Settings", "asBytes", "loadSettings"]
