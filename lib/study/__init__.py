"""The stages of both papers, which notebooks ask for by name."""
