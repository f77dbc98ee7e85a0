"""What may go wrong, looked at before anything is submitted. A check is a function that returns findings."""
