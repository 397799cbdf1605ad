"""Constants that the fork server and its client share."""

from __future__ import annotations

#: Exit status of a fork server that cannot work on this machine. A new server could not either, so
#: the client then starts trainers in fresh interpreters.
EXIT_UNFIT = 71
