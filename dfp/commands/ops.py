"""``ops``: check the machine, plan, watch and export runs, measure speed."""

from dfp.commands import bench, doctor, export, gpu, plan, status
from dfp.commands.options import group

app = group()
for _part in (status, doctor, plan, bench, export, gpu):
    app.add_typer(_part.app)
