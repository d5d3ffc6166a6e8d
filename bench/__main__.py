"""Run the measurements."""

from bench.run import main

main()
