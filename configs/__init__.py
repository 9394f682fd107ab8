"""Launch recipes: `--config=configs/voxceleb2.py`, `...:smoke`, `configs/synthetic.py`."""
