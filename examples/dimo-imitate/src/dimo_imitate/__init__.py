"""An objective."""
