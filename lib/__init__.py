"""The shared code of the study, read in this order:

paths, config, precision, world, prompts, models, sampling, panel, labels, reward, finetune, metrics, stats, cache, figures,
report, run.
"""
