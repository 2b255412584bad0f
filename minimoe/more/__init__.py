"""The papers' further techniques, one a file, built on the core, which knows their names alone.

precision.py         bfloat16 on its grid, selective precision; products.py: by a GPU's 16-bit units where they give the same
explore.py, ntlb.py  routers that try other experts; routers.py enters them among router.ROUTERS
switch_attention.py  queries, keys and values from experts
kinds.py             what train.py can train, and what a checkpoint can hold
soft_targets.py      the loss of distillation
distil.py            a dense student of a sparse teacher
upcycle.py           experts from a dense model; parents.py: what runs that begin with another run share
quality.py           GLaM's quality filter; pages.py: a text as pages
mixture.py           the weights of a mixture, from small models
fewshot.py           zero-, one- and few-shot evaluation; tasks.py: what is asked
"""
