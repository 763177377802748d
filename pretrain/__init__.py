"""How the shipped mini models were made, one file a model; `python -m pretrain` makes them all."""
