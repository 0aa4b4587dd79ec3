"""What the trainer needs to know besides model, data, optimizer and schedule."""

train = dict(
    output_dir="./output",
    # Weights to start from: a path, an address, or '' to start from scratch.
    init_checkpoint="",
    # True takes all but the layers that depend on the classes, to train those for other classes.
    reset_head=False,
    # '' takes CUDA where there is any, and the CPU elsewhere.
    device="",
    # Negative: a different one at each run.
    seed=-1,
    max_iter=0,
    # Mixed precision. 'auto' is bf16 where the GPU has it and fp16 elsewhere, and none on the CPU.
    amp=dict(enabled=True, dtype="auto"),
    # Compiles the backbone, for each size of image anew; it pays where sizes are fixed.
    compile=False,
    # Largest norm of the gradient; 0 does not clip.
    max_grad_norm=0.0,
    # Parts in which each process sees its share of a batch, one after the other.
    grad_accum_steps=1,
    # An average of the weights over about 1 / (1 - decay) steps, evaluated beside them.
    ema=dict(enabled=False, decay=0.9998, warmup=2000),
    # The weights with the highest value of this metric are kept as model_best.pth; '' keeps none.
    best_metric="bbox/AP",
    # Steps in a row that are left out because loss or gradient are infinite or NaN.
    max_nonfinite_steps=10,
    # How several processes share the work: 'ddp' has the whole model in each, 'fsdp' a share of it.
    strategy="ddp",
    ddp=dict(
        broadcast_buffers=False,
        find_unused_parameters=False,
        fp16_compression=False,
    ),
    # In iterations; so many numbered checkpoints are kept.
    checkpointer=dict(period=5000, keep_last=3),
    # In iterations. An evaluation after the last one takes place anyway.
    eval_period=5000,
    log_period=20,
    # Images of the prediction grid that an evaluation draws; 0 draws none.
    visualized_images=12,
)
