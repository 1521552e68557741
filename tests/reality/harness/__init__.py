"""Starts real Temporal servers, the gateway, workers and callers for the demo and the reality tests."""
