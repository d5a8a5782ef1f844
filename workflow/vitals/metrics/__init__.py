"""Metrics: datasets -> xarray.Dataset, one module a question, each with one pure `compute`."""
