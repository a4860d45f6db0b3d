//! Objects: typed requests to a bucket; signing, retries, XML, limits.
