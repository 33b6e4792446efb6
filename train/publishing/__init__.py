"""From a checkpoint to a repository on the Hub: the folder, its card, its check, the upload."""
