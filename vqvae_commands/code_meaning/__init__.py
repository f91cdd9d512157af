"""Analyses of the codes of a model, the parts of `vqvae_commands.interpret`."""
