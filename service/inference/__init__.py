"""Load a program, batch requests, score. The only place of the service with an engine: torch, on first use."""
