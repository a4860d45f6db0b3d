//! An independent COS server for tests and the demo.
