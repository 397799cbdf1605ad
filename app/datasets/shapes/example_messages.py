"""Messages that the examples of several shapes share."""

from __future__ import annotations

USER = {"role": "user", "content": "What is 2+2?"}
GOOD = {"role": "assistant", "content": "It is 4."}
BAD = {"role": "assistant", "content": "It is 5."}
