"""A process that keeps models loaded, and the clients that let it work for them. It knows no command."""
