"""Adapters for HTTP libraries; each is imported at its first use only."""
