"""Who judges images (judges, the simulated panel, votes and choices), and how labels are stored."""
