"""Data owner, model owner and crypto provider: services that talk over TLS, and a lesson with all three in one process."""
