"""The door for assistants: collections as tools, resources and a prompt (Model Context Protocol, MCP)."""
