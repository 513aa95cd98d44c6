"""What a generator's latents mean: each function is a method of TrainedGAN, prints nothing and writes nothing."""
