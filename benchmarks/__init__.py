"""What this project's speed is, against what a user would pick instead.

`make bench` runs every module below that has a `run` function, each in a process of
its own, and writes `results/<work>.csv` and the table in `README.md`.
"""
