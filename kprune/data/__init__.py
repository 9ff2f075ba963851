"""Tasks, the texts behind them, and their tokens in batches."""
