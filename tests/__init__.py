"""The tests. `pytest tests [--backend numpy|strict|cupy]` from the project's root; nothing needs to be installed."""
