//! Where events go: a text log, JSON lines.
