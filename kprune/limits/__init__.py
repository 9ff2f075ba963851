"""Limits that pruning keeps to: FLOPs, or seconds on this machine."""
