"""What the codes of a model mean: the parts of `experiments.interpret`."""
