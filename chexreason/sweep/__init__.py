"""Many runs as one study: what must run, what already has, and a process for each."""
