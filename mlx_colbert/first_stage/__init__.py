"""How does an engine for single vectors find candidates for MaxSim? One vector for each query and passage."""
