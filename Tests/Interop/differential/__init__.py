"""A differential fuzzer: drawn configurations, computed by nibble and by the libraries it has to agree with."""
