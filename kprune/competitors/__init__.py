"""Other methods without retraining, beside which K-prune is measured."""
