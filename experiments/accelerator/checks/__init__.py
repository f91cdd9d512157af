"""Checks on an accelerator: indices, products, train steps, laws."""
