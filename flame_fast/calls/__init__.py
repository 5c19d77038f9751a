"""Calls: services, what travels with a call, and futures in shapes."""
