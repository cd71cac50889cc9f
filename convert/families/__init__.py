"""Model families: the names and settings of Hugging Face, mapped to canonical ones."""
