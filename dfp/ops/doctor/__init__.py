"""Checks of the machine before jobs are submitted. A check is a function that returns findings."""
