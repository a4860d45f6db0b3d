//! What every room may need and that needs no room.
