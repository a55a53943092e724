"""Fovea's contract and its HTTP face.

Data flows one way: `workers` imports `service`, never back. Only `service.inference` imports an engine (torch).
See docs/architecture.md for the map.
"""

__version__ = "0.1.0"
