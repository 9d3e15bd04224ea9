"""The host loop."""
