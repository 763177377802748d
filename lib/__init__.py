"""The shared code of the study, read in this order:

paths, config, world, prompts, models, sampling, panel, labels, reward, finetune, metrics, stats, cache, figures,
report, claims, run, site.
"""
