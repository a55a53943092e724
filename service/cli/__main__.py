"""`python -m service.cli`: the `fovea` command, where it is not installed."""

from service.cli import main

main()
