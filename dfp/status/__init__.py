"""Where the runs stand, from their folders alone: no database, no scheduler, no JAX."""
