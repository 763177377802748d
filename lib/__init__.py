"""The shared code of the study. Packages import one way only, each from those above it; read them in this order:

ground    what is kept where: paths, sizes, setups, seeds, source, memory, cache, functions, checkpoint, precision, stats
world     the emoji world and its language: scenes, prompts, perturbed, web
images    from prompts to images and what is measured in them: networks, models, sampling, embedding, metrics
feedback  who judges them: judges, labels, panel, votes, tallies, taste, choices
methods   training; reward, ensemble, denoising, finetune, arithmetic, preference, adaptation; rejection, ablation, choosing
scale     the papers' scale: blank, hub, shards, streams, pairs, inception, fidelity; launch, stages, worker, unets; budget
study     the stages that notebooks ask for by name: common, lee (LeeStudy), tuning, own, voting, users, wu (WuStudy); ahead
desk      figures, charts, planes, report, claims; costs, run, beside; gallery, readme, publish, site; export, pack, bench
"""
