"""Priors that are trained within a comparison, and their samples."""
