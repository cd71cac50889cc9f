"""How does a change become durable? As batches and merges, in one transaction."""
