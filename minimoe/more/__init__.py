"""The papers' further techniques, one a file, built on the core."""
