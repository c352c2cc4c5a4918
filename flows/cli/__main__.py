"""`python -m flows.cli` is `saa`, for whoever starts it by the interpreter."""

from flows.cli import main

main()
