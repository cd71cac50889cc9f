"""Files to passages. Knows no model and no index."""
