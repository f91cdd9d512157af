"""Analyses of the codes of a model, the parts of `experiments.interpret`."""
