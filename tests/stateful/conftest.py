"""The variables that only tests know must be gone before anything joins a domain."""

from stateful.profiles import chosen

chosen()
