"""Experiments on real Temporal servers: figures with the gateway, and beside them without. Each module is a script."""
