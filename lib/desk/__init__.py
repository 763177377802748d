"""The output of notebooks, and the tools that run and publish them."""
