"""From video files to batches of uint8 arrays. Never imports jax or flax."""
