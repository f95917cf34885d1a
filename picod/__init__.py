"""Serves one sandbox: commands and files, all of it the work of its runner."""
