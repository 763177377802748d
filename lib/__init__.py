"""The shared code of the study. Packages import one way only, each from those above it; read them in this order:

ground    what is kept, where: paths, sizes, setups, seeds, source, memory, cache, functions, checkpoint, database, stats
world     the emoji world and its language: scenes, prompts, perturbed, web
images    from prompts to images and what is measured in them: networks, models, sampling, embedding, metrics
feedback  judges, labels, panel, votes, tallies, taste, choices; people: answers, store, assignments, tasks, sessions
methods   training; reward, ensemble, denoising, finetune, arithmetic, preference, adaptation; rejection, ablation, choosing
scale     the papers' scale: blank, hub, shards, streams, pairs, inception, fidelity; launch, crew, stages, worker, unets
study     common, lee (LeeStudy), tuning, own, people, voting, users, wu (WuStudy), ahead; scaled, its lee and wu; made
desk      figures, charts, planes, report, claims, labelling, serving; costs, run, beside; publish, site; export, pack, bench
"""
