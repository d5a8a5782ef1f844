"""The page of a study: all its numbers, maps and findings in one file to explore."""
