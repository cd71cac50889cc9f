"""A model and an index together: they index texts and find them."""
