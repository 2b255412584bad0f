"""minimoe: the Switch Transformer and GLaM from scratch. The core, in reading order:

    backend.py      xp: numpy or cupy, chosen once
    kernels.py      some ops as a GPU runs them; skip it at first
    cores.py        what speed needs on a CPU, kept out of the equations; skip it at first
    config.py       every knob, its default and its meaning
    params.py       one vector of parameters, its layout, its views
    ops.py          softmax, linear, norms, activations, cross-entropy: each with its backward pass
    attention.py    unscaled attention with T5's relative positions
    load.py         capacity, the experts' queues, balance loss, z-loss
    router.py       top-1 and top-2 routing
    moe.py          tokens to their experts and back
    model.py        the decoder language model and its losses
    optim.py        Adam, clipping, learning rates
    world.py        who shares the work of a run: one process; parallel/ has several
    step.py         the training step and the loop around it
    checkpoint.py   save and load
    generate.py     sampling with cached keys and values
    count.py        what a model costs

Around it: data/ (bytes, files, the embedded corpus), t5/ (the encoder-decoder as published, span
corruption, Adafactor, fine-tuning, other people's checkpoints), more/ (the papers' further techniques, one a file), parallel/
(several processes and machines), grade/ (exercises, and the suite that grades students), lessons/ (the course: figures, tables,
pages, and the studies they stand on), bench.py (speed and memory, beside PyTorch), plot.py (pictures of a run), view.py (a page
that shows which expert reads which byte), doctor/ (what a machine has and lacks).
"""
