"""Other retraining-free methods, one file each, with K-prune's signature."""
