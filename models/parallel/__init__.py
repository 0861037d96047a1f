"""Parallelism beyond one device: each system usable alone, each with a reference."""
