"""K-prune+: what makes K-prune more accurate without a hyperparameter to tune."""
