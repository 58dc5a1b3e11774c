"""What everything stands on: errors, checks, files, random state, lazy imports."""
