"""Findings: the numbers of a study held against the paper's statements, by written rules."""
