"""Where things are, what is kept and how, and the statistics that everything is measured by."""
