"""A plan in the training loop of another library: transformers, lightning or fastai, a file for each."""
