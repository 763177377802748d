"""The stages of both papers' studies, which notebooks request by name."""
