"""A model version as one zip that needs nothing of Fovea: see `build` for what is inside."""
