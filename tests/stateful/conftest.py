"""The variables that only tests know must be gone before any process joins a domain."""

from stateful.profiles import chosen

chosen()
