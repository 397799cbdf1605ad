"""What the fork server and its client agree on."""

from __future__ import annotations

#: Exit status of a fork server that cannot serve here. Another server would end the same way, so
#: the client starts jobs in fresh interpreters from then on.
EXIT_UNFIT = 71
