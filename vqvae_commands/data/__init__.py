"""Data of a command: their options, kinds, counts and checks."""
