"""Explorations of the latent space. Each function is a method of TrainedGAN, prints nothing and writes nothing."""
