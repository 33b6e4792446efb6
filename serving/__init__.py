"""Answering over HTTP: continuous batching, an OpenAI-compatible server, and the way to vLLM."""
