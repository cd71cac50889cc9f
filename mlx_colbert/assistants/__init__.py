"""Puts this package's MCP server into the settings of programs with an assistant, and takes it out again."""
