"""The `gvm` command."""
