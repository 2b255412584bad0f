"""The Switch Transformer as published: T5's objective and optimizer, built on the core."""
