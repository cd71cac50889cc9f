"""A process that serves many callers: models stay loaded, requests have places, long work has jobs."""
