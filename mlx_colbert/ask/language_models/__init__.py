"""Language models: in this process through mlx-lm, or behind an endpoint."""
