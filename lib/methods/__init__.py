"""Methods that learn from feedback, one file per method."""
