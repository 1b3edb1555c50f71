//! Capture files of every kind, valid and not.
