"""``python -m app.cli``: the command, where no script is installed."""

from app.cli import main

main()
