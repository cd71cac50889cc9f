"""The engine over HTTP: the application, its routes, the page, and the doors that guard them."""
