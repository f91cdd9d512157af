"""Sources of examples, and the order and scale in which training sees them."""
