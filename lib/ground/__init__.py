"""Where things are, what is cached and how, and the statistics behind every measurement."""
