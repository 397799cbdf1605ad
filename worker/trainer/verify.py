"""``python -m worker.trainer.verify <adapter> --base <model>``: print an adapter's certificate.

Exit status 0 when every probe scores what it scored in training, 1 when one does not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from worker.trainer.__main__ import prepare_environment
from worker.trainer.channel import die_with_parent


def main(argv: list[str] | None = None) -> int:
    """Certify; the certificate is the only thing on stdout."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m worker.trainer.verify", description=__doc__)
    parser.add_argument("directory", type=Path, help="the adapter, or a merged model")
    parser.add_argument("--base", type=Path, help="the base model's files; none: a merged model")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print
    prepare_environment(arguments.threads)
    from worker.trainer.certificate import certify

    certificate = certify(arguments.directory, arguments.base, arguments.device)
    json.dump(certificate, out, indent=1)
    out.write("\n")
    out.close()
    return 0 if certificate["is_verified"] else 1


if __name__ == "__main__":
    sys.exit(main())
