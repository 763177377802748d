"""How the shipped mini models were made, one file per model; `python -m pretrain` makes them all."""
