"""The shared code of the study, read in this order:

paths, config, precision, world, prompts, models, sampling, panel, labels, perturbed, reward, finetune, metrics, stats,
votes, rejection, cache, ablation, figures, report, claims, site, run.
"""
