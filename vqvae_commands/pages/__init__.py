"""Figures, and self-contained HTML pages with them."""
