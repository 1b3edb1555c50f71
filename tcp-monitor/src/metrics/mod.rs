//! Prometheus metrics: the counters of the kernel programs, read at each scrape, and the HTTP endpoint.
