"""Encrypted inference: compiling a network, and the three parties that evaluate it together."""
