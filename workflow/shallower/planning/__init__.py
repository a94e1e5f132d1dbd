"""What a study takes, before anything of it runs: jobs, FLOPs, hours, disk, memory."""
