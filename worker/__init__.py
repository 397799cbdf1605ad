"""The workers: training, scoring and judging, and the supervisor of their processes."""

import logging

# On CPUs with bfloat16 instructions, bitsandbytes warns at each import that a kernel of the Hub is
# missing. Nothing here uses it: models with 4-bit weights need a GPU.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
