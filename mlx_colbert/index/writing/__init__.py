"""How does a change become durable? Batches, merges, one transaction."""
