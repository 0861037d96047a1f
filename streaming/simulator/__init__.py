"""Simulated monitors: physiology, events and artefacts; by seed, the same every time."""
