//! Durable things on this host: a journal, files that appear whole.
