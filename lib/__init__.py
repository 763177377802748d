"""The shared code of the study, read in this order:

paths, config, precision, world, prompts, models, sampling, panel, labels, perturbed, reward, finetune, metrics, stats,
votes, rejection, choices, preference, checkpoint, adaptation, preference_stages, study, cache, ablation, figures, report,
claims, site, run.
"""
