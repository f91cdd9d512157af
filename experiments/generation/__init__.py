"""Codes as files, priors over them, and what is drawn from both."""
