"""What the packages share: corpora, windows, dropout, NT-ASGD, checkpoints, run logs, devices, flags."""
