"""From names and options to a job."""
