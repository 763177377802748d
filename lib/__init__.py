"""The shared code of the study, read in this order:

paths, source, memory, cache; checks, domains, seeds, config, precision; world, prompts, web, models, sampling, panel,
labels, perturbed, reward, finetune, metrics, stats, votes, rejection, choices, preference, checkpoint, adaptation,
preference_stages, study, ahead; ablation, figures, report, claims, site, export, parameters, fence, run, bench;
environment, which make runs before all of them.
"""
