"""Everything about doing long work: claiming jobs, running each in a process of its own, and training.

Imports `service`; nothing in `service` imports this.
"""
