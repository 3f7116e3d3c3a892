"""Fakes and tools that several tests use."""
