"""What the jobs share, by topic. Nothing here reads the command line but `arguments` and the parser of `finetuning`."""
