"""`python -m vitals` is the command `vitals`."""

from vitals.cli import main

main()
