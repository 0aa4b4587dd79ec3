"""What the trainer needs to know besides model, data, optimizer and schedule."""

train = dict(
    output_dir="./output",
    # Weights to start from: a path, an address, or '' to start from scratch.
    init_checkpoint="",
    # True takes all but the layers that depend on the classes, to train those for other classes.
    fresh_head=False,
    # '' takes CUDA where there is any, and the CPU elsewhere.
    device="",
    # Negative: a different one at each run.
    seed=-1,
    max_iter=0,
    # Mixed precision. 'auto' is bf16 where the GPU has it and fp16 elsewhere, and none on the CPU.
    amp=dict(enabled=True, dtype="auto"),
    # Compiles the backbone, for each size of picture anew; it pays where sizes are fixed.
    compile=False,
    # Largest norm of the gradient; 0 does not clip.
    clip_gradient_norm=0.0,
    ddp=dict(
        broadcast_buffers=False,
        find_unused_parameters=False,
        fp16_compression=False,
    ),
    checkpointer=dict(period=5000, max_to_keep=100),
    # In iterations. An evaluation after the last one takes place anyway.
    eval_period=5000,
    log_period=20,
    # Pictures of the prediction sheet that an evaluation draws; 0 draws none.
    sheet_images=12,
)
