"""What only makes it fast, or keeps files and bars in order: a reader of the paper may skip it."""
