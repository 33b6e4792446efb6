"""Bulk compression: a corpus memory built shard by shard, by any number of processes and machines."""
