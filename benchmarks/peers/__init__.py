"""Peers, each as its own documentation shows it, run by an interpreter that has them; a JSON line each epoch."""
