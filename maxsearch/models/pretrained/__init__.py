"""Towers in the architectures of pretrained models, and what reads and writes their files."""
