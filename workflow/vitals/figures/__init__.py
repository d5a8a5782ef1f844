"""Figures: results -> figure and table, one module a figure, each with one pure `draw`."""
