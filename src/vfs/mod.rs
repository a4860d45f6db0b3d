//! Names: inodes, dentries, attributes, handles and the POSIX rules over objects.
