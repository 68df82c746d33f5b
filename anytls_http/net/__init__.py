"""TCP and TLS: dialling, contexts, one TLS connection. Knows nothing of AnyTLS."""
