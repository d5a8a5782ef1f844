"""Captions of the report: what each figure shows, in the numbers of the study."""
