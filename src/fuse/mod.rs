//! The front door: kernel requests become `Vfs` calls, errors become errno.
