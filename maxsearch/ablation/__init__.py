"""Ladders of configs, each rung measured against another one over several seeds."""
