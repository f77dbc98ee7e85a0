"""The state of the runs, from their folders alone: no database, no scheduler, no JAX."""
