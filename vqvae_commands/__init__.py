"""The command `vqvae`: what users of the library do every day, from a shell.

This package is light: it imports no JAX before a command needs it.
"""
