"""Measures of reconstructions and samples: bits, classifiers, and sentences about the numbers."""
