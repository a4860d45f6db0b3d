//! Bytes: the content of open files; blocks in, parts out, memory bounded.
