"""What the data of a command are: their options, kinds, counts and checks."""
