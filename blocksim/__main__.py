"""`python -m blocksim`: the command line."""

from blocksim.cli import main

main(prog_name="blocksim")
