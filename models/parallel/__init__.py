"""Parallelism beyond one device: each system usable by itself, each with the reference it equals."""
