"""Occlude's four programs, and the few lines that start them with the libraries of this Python environment."""
