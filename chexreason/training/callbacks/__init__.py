"""Lightning callbacks: scores of every data set, adapters in PEFT layout, samples to read."""
