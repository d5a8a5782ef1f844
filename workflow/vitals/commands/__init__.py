"""What the subcommands of `vitals` do; which there are says `vitals.cli`."""
