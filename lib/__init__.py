"""The shared code of the study. Packages import one way only, each from those above it; read them in this order:

ground    where and how things are kept: paths, sizes, seeds, source, memory, cache, checkpoint, precision, stats, database
world     the emoji world and its language: scenes, prompts, perturbed, web
images    from prompts to images and what is measured in them: networks, models, sampling, embedding, metrics
feedback  judges, labels, panel, votes, tallies, taste, choices; of people: answers, assignments, store, tasks, sessions
methods   training; reward, ensemble, denoising, finetune, arithmetic, preference, adaptation; rejection, ablation, choosing
study     the stages that notebooks ask for by name: common, lee (LeeStudy), tuning, voting, users, wu (WuStudy); ahead
desk      figures, charts, planes, report, claims, labelling; run, beside, publish, site; export, pack, campaign; bench
"""
