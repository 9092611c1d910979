"""`python -m surgeon`, and `accelerate launch -m surgeon tune ...`."""

from surgeon.cli.main import main

main()
