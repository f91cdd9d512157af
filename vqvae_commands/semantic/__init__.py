"""Semantic ids: codes of embeddings, unique for each item."""
