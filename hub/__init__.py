"""From a checkpoint to the Hub: the folder, its card, its check, the upload; the endpoint and the page."""
