"""Names that the commands need, in a module that needs no database."""

from __future__ import annotations

#: The tenant of an embedded service.
DEFAULT_TENANT = "default"
#: File in the data directory with the first key of an embedded service.
FIRST_KEY_FILE = "api-key"
