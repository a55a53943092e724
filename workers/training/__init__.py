"""Networks, data, augmentation, optimisation, the loop, evaluation, export. It knows no database, no jobs, no HTTP.

Shapes: N batch, C channels, S side in pixels, K classes.
"""
