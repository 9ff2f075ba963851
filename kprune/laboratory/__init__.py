"""Experiments with K-prune: teachers, scores, batches of runs, tables and figures."""
