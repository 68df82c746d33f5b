"""Sessions over TLS connections, the pool of them, its rules and its maintenance thread."""
