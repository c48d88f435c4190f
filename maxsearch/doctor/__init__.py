"""What `maxsearch doctor` looks at: facts of this machine and environment, and what each of them means for us."""
