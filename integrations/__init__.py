"""CLaRa for other libraries, one file each; each imports its library when it is imported itself."""
