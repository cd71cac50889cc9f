"""The door for assistants: collections as tools, resources and a prompt of the Model Context Protocol (MCP)."""
