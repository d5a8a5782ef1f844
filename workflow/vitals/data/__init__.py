"""Where images come from, and the frozen list of them that a study uses."""
