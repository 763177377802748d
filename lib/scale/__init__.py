"""The papers' own scale: public weights, data larger than memory, one process or many."""
