"""Collections: folders of files with an index that keeps up with them."""
