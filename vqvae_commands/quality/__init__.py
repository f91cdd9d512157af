"""The quality of generated images: a classifier of real ones, and distances by its features."""
