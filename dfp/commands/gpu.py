"""``on-gpu``: a command on one GPU of this machine that no other job has."""

from typing import Annotated

import typer

from dfp.commands.options import group

app = group()


@app.command(context_settings={"ignore_unknown_options": True})
def on_gpu(
    gpus: Annotated[str, typer.Argument(help="The machine's devices, such as 0,1,2,3.")],
    command: Annotated[list[str], typer.Argument(help="After --: what to run.")],
) -> None:
    """Run a command on the first free GPU of a workstation; wait while all are taken.

    The device is in CUDA_VISIBLE_DEVICES. It is free again when the command ends, however it ends.
    """
    from dfp.ops.gpu_pool import parse_devices, run_on_device

    try:
        devices = parse_devices(gpus)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="GPUS") from None
    # Without `dfp: `, which begins an error: `dfp ops status` looks for one at the end of a job's log.
    run_on_device(devices, command, lambda: typer.echo(f"GPUs {gpus} are all taken; waiting", err=True))
